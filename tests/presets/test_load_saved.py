"""What `save_pretrained` writes, others load: ours, the reference, and the Hub's client."""

import errno
import json
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato.components.loading.single_file.writing import write_checkpoint

from ..components.hub_server import Hub, asked_here
from .support import EMBEDDED, fresh, held

CALL: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 0, "output_type": "pt"}


def load(x: Any, **more: Any) -> sf.Graph:
    return sf.load(x, manager=fresh(), **more)


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_has_everything_and_draws_the_same(emoji: sf.Graph, tmp_path: Path) -> None:
    place = emoji.save_pretrained(tmp_path / "mine")
    assert place == tmp_path / "mine"
    assert tree(place) >= {
        "README.md", "graph.json", "graph.svg", "model_index.json", "modular_model_index.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json", "tokenizer/vocab.json",
    }  # fmt: skip
    assert not [name for name in tree(place) if name.endswith((".part", ".tmp")) or "/." in name]
    moved = place.rename(tmp_path / "moved")
    want = emoji(**CALL).images
    assert torch.equal(load(moved)(**CALL).images, want)
    copied = (moved / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert copied == (EMBEDDED / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    for name in ("graph.json", "modular_model_index.json"):  # without the graph by one index, then by the other
        (moved / name).unlink()
        assert torch.equal(load(moved)(**CALL).images, want)


def test_the_index_files_are_those_that_others_write(emoji: sf.Graph, tmp_path: Path) -> None:
    emoji.save_pretrained(tmp_path / "mine", repo="someone/mine")
    modular = json.loads((tmp_path / "mine/modular_model_index.json").read_text())
    assert list(modular) == sorted(modular)
    assert modular["unet"] == [
        "diffusers",
        "UNet2DConditionModel",
        {
            "pretrained_model_name_or_path": "someone/mine", "revision": None, "subfolder": "unet",
            "type_hint": ["diffusers", "UNet2DConditionModel"], "variant": None,
        },
    ]  # fmt: skip
    classic = json.loads((tmp_path / "mine/model_index.json").read_text())
    assert classic["_class_name"] == "StableDiffusionPipeline" and classic["vae"] == ["diffusers", "AutoencoderKL"]
    assert classic["requires_safety_checker"] is False


def test_the_reference_loads_what_we_save(xl: Callable[..., sf.Graph], diffusers: Any, tmp_path: Path) -> None:
    pipe = xl("base")
    pipe.save_pretrained(tmp_path / "mine")
    theirs = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "mine")
    assert type(theirs).__name__ == "StableDiffusionXLPipeline"
    assert theirs.config.force_zeros_for_empty_prompt
    state = held(pipe, "unet").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.unet.state_dict().items())
    modular = diffusers.ModularPipeline.from_pretrained(str(tmp_path / "mine"))
    modular.load_components()
    assert type(modular).__name__ == "StableDiffusionXLModularPipeline" and modular.unet is not None


def test_swapped_parts_objects_and_parts_of_a_file_are_written(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    manager = fresh()
    folder = checkpoint("sd")
    models = {n: manager.load(s.spec) for n, s in load(folder).bindings.items() if n in ("unet", "vae", "text_encoder")}
    file = write_checkpoint(tmp_path / "one.safetensors", "sd1", models)
    pipe = load(file, config=folder).using(scheduler="euler_a").bind(vae=models["vae"])
    pipe.save_pretrained(tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert torch.equal(again(**CALL).images, pipe(**CALL).images)
    assert type(held(again, "scheduler")).__name__ == "EulerAncestralDiscreteScheduler"
    assert again.check() == []


def test_a_graph_that_lacks_parts_or_holds_what_no_file_names_is_refused_whole(emoji: sf.Graph, tmp_path: Path) -> None:
    with pytest.raises(sf.SaveError) as caught:
        sf.load("sd").save_pretrained(tmp_path / "mine")
    text = str(caught.value)
    assert "unet: nothing is bound" in text and "vae: nothing is bound" in text
    assert not (tmp_path / "mine").exists()
    (tmp_path / "file").touch()
    with pytest.raises(sf.SaveError, match="is a file, and a folder is needed"):
        emoji.save_pretrained(tmp_path / "file")


def test_a_full_disk_changes_nothing(emoji: sf.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(source: Path, target: Path) -> None:
        if source.name.endswith(".safetensors") and source.parent.name == "unet":
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(source.read_bytes())

    emoji.save_pretrained(tmp_path / "mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    monkeypatch.setattr(shutil, "copyfile", fill)
    for name in ("mine", "new/er"):
        with pytest.raises(sf.SaveError, match=r"cannot be written \(.*No space left on device\)\. Make room"):
            emoji.using(scheduler="euler").save_pretrained(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


def test_what_others_put_into_the_folders_stays_and_old_weights_go(emoji: sf.Graph, tmp_path: Path) -> None:
    (tmp_path / "vae/notes").mkdir(parents=True)
    (tmp_path / "vae/notes/mine.txt").write_text("mine")
    (tmp_path / "vae/train.py").write_text("mine")
    (tmp_path / "vae/diffusion_pytorch_model.fp16.safetensors").write_bytes(b"of an earlier save")
    emoji.save_pretrained(tmp_path)
    assert tree(tmp_path / "vae") == {
        "config.json", "diffusion_pytorch_model.safetensors", "notes/mine.txt", "train.py"
    }  # fmt: skip


def test_a_pipe_is_saved_over_what_it_is_made_of(emoji: sf.Graph, tmp_path: Path) -> None:
    emoji.save_pretrained(tmp_path / "mine")
    twice = load(tmp_path / "mine")
    files = tree(tmp_path / "mine")
    twice.using(scheduler="euler").save_pretrained(tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert tree(tmp_path / "mine") == files
    assert again.bindings["scheduler"].type is sf.schedulers.EulerDiscreteScheduler
    assert torch.equal(again(**CALL).images, emoji.using(scheduler="euler")(**CALL).images)


def test_plain_keys_of_an_index_deep_in_a_folder_are_kept(tmp_path: Path) -> None:
    inside = shutil.copytree(EMBEDDED, tmp_path / "deep/down")
    keys = json.loads((inside / "model_index.json").read_text())
    (inside / "model_index.json").write_text(json.dumps({**keys, "requires_safety_checker": False}))
    sf.load(tmp_path, subfolder="deep/down").save_pretrained(tmp_path / "saved")
    for index in ("model_index.json", "modular_model_index.json"):
        assert json.loads((tmp_path / "saved" / index).read_text())["requires_safety_checker"] is False


def test_a_readme_of_ones_own_stays(emoji: sf.Graph, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    emoji.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    emoji.save_pretrained(tmp_path)  # over itself


# ---------------------------------------------------------------------------------------------------- the Hub
@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    (tmp_path / "hub").mkdir()
    with asked_here(tmp_path / "hub", tmp_path / "cache", monkeypatch) as server:
        yield server


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the client's use of its own HTTP library
def test_a_pushed_graph_is_loaded_again_by_its_name(hub: Hub, emoji: sf.Graph) -> None:
    pipe = emoji.using(scheduler="euler")
    upload = sf.push_to_hub(pipe, "someone/mine", token="hf_let_me_in", license="mit")
    assert upload.url is not None and upload.url.startswith(hub.url)
    assert tree(hub.root / "someone/mine") == {*upload.files} >= {"README.md", "graph.json", "modular_model_index.json"}
    again = load("someone/mine")
    assert again.preset == ("sd", "text2image")
    assert torch.equal(again(**CALL).images, pipe(**CALL).images)
    card = (hub.root / "someone/mine/README.md").read_text()
    assert 'pipe = sf.load("someone/mine")' in card and "license: mit" in card
    for said in ("pipeline_tag: text-to-image", "| `prompt` |", "| `images` |", "![The graph](graph.svg)", "`guider`"):
        assert said in card


def test_a_hub_that_refuses_says_why(hub: Hub, emoji: sf.Graph) -> None:
    with pytest.raises(sf.LoadError, match="someone/mine: "):
        sf.push_to_hub(emoji, "someone/mine", token="hf_wrong")
    assert not (hub.root / "someone/mine").exists()
