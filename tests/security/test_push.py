"""What a save copies and an upload sends: the files that the classes of the components read, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest

import sfumato as sf
from sfumato.components.loading.copying import files_to_copy
from sfumato.presets.names import EMBEDDED
from sfumato.presets.push import files_of

SECRETS = ("notes.txt", "keys.json", "README.md", "passwords.txt", "id_rsa", ".env", "settings.json",
           "chat_template.jinja", "other.safetensors", "old.model", "diffusion_pytorch_model.bin", "config.json.bak",
           "training_args.bin", "diffusion_pytorch_model.safetensors.index.json.txt",
           "generation_config.json")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkpoint whose folders also have files of their owner."""
    folder = shutil.copytree(EMBEDDED / "emoji", tmp_path / "checkpoint")
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "."):
        for secret in SECRETS:
            if not (folder / name / secret).exists():
                (folder / name / secret).write_text('{"password": "hunter2"}')
    return folder


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def text_of(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_save_copies_only_what_the_classes_read(place: Path, tmp_path: Path) -> None:
    sf.load(place).save_pretrained(tmp_path / "mine")
    assert tree(tmp_path / "mine") == {
        "README.md", "graph.json", "graph.svg", "model_index.json", "modular_model_index.json",
        "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
        "tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert "hunter2" not in text_of(tmp_path / "mine")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer/merges.txt", "the password is hunter2"),
        ("tokenizer/vocab.json", '{"password": "hunter2"}'),
        ("tokenizer/vocab.json", "hunter2"),
        ("tokenizer/tokenizer.json", '{"password": "hunter2"}'),
        ("tokenizer/tokenizer.json", '{"model": {"type": "BPE", "vocab": "hunter2"}}'),
        ("tokenizer/special_tokens_map.json", '["hunter2"]'),
        ("tokenizer/added_tokens.json", "hunter2"),
        ("scheduler/scheduler_config.json", "hunter2"),
        ("scheduler/scheduler_config.json", '{"beta_start": "hunter2"}'),
        ("unet/config.json", '{"_class_name": "UNet2DConditionModel", "password": "hunter2"}'),
        ("vae/diffusion_pytorch_model.safetensors", "the password is hunter2"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_not_copied(name: str, text: str, place: Path, tmp_path: Path) -> None:
    pipe = sf.load(place)
    (place / name).write_text(text)
    with pytest.raises(sf.SfumatoError):
        pipe.save_pretrained(tmp_path / "mine")
    assert not (tmp_path / "mine").exists() or "hunter2" not in text_of(tmp_path / "mine")


@pytest.mark.parametrize(
    "name", ["tokenizer/merges.txt", "unet/config.json", "vae/diffusion_pytorch_model.safetensors"]
)
def test_a_save_follows_no_link_out_of_the_folder(name: str, place: Path, tmp_path: Path) -> None:
    pipe = sf.load(place)
    shutil.copy(place / name, tmp_path / "outside")
    (place / name).unlink()
    (place / name).symlink_to(tmp_path / "outside")
    with pytest.raises(sf.LoadError, match="is a link that leads out"):
        pipe.save_pretrained(tmp_path / "mine")


def test_the_index_of_shards_is_copied_with_them(place: Path, tmp_path: Path) -> None:
    model = sf.load(place).bindings["unet"].load()
    shutil.rmtree(place / "unet")
    model.save_pretrained(place / "unet", max_shard_size="8MB")
    (place / "unet" / "x.safetensors.index.json").write_text('{"password": "hunter2"}')
    spec = sf.load(place).bindings["unet"].spec
    names = files_to_copy(spec)
    assert sorted(names) == sorted(p.name for p in (place / "unet").iterdir() if p.name != "x.safetensors.index.json")
    assert len(names) == 6


def test_an_upload_is_listed(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="sfumato")
    upload = sf.push_to_hub(sf.load(place), "someone/mine", dry_run=True)
    assert upload.url is None and upload.files["unet/config.json"] == (place / "unet" / "config.json").stat().st_size
    assert upload.sources == {name: str(place / name) for name in upload.sources}
    assert len(upload.sources) == 5
    text = str(upload)
    assert text.splitlines()[0].startswith("someone/mine: 16 files, ")
    assert "  unet/config.json " in text and f"  tokenizer is from {place / 'tokenizer'}" in text
    assert text in caplog.text
    assert not [name for name in upload.files if Path(name).name in SECRETS and name != "README.md"]


@pytest.mark.parametrize("kind", ["file", "folder", "file inside", "pipe"])
def test_links_and_pipes_are_not_uploaded(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    (place / "unet").mkdir(parents=True)
    (place / "unet" / "config.json").write_text("{}")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("hunter2")
    assert files_of(place) == {"unet/config.json": 2}
    more = place / "unet" / "more"
    if kind == "pipe":
        os.mkfifo(more)
    else:
        more.symlink_to({"file": tmp_path / "secret" / "key", "folder": tmp_path / "secret"}.get(kind, "config.json"))
    with pytest.raises(sf.LoadError, match=r"is a link or no plain file\. Nothing was uploaded"):
        files_of(place)


def test_a_graph_that_names_private_folders_publishes_nothing(place: Path, tmp_path: Path) -> None:
    """The attack: `graph.json` names a folder of this machine, and a user shares what the graph draws."""
    private = tmp_path / "private"
    private.mkdir()
    (private / "tokenizer_config.json").write_text('{"password": "hunter2"}')
    sf.load("emoji").save(place)
    data = json.loads((place / "graph.json").read_text())
    entry = {**data["graph"]["components"]["tokenizer"], "pretrained_model_name_or_path": str(private), "subfolder": ""}
    data["graph"]["components"]["tokenizer"] = entry
    (place / "graph.json").write_text(json.dumps(data))
    with pytest.raises(sf.GraphFileError, match="leads out of the folder"):
        sf.push_to_hub(sf.load(place), "someone/mine", dry_run=True)
