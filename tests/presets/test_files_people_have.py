"""Files as people have them: pointers, web pages, renamed and cut files, early indexes, addresses out of a browser."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import sfumato as sf
from sfumato import Graph, LoadError
from sfumato.components.loading.index import read_index
from sfumato.presets.addresses import Address, parse_address
from sfumato.presets.cli.app import app

from .support import EMBEDDED, fresh

CALL: dict[str, Any] = {"prompt": "a cat", "seed": 0, "num_inference_steps": 1, "output_type": "pt"}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def pickled(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


class Callback:
    """What a training program leaves in its checkpoints."""


GOOD = (EMBEDDED / "vae" / WEIGHTS).read_bytes()
FILES: dict[str, tuple[str, bytes, str]] = {
    "a pointer": (
        "x.safetensors",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 4265146304\n",
        "is a pointer of Git LFS, and not the file of 4265146304 bytes itself. Run `git lfs pull`",
    ),
    "a web page": (
        "x.safetensors",
        b"\n<!DOCTYPE html><html>Sign in</html>",
        "is a web page, as a server sends it when",
    ),
    "a web page as a pickle": ("x.ckpt", b"<html>Sign in</html>", "is a web page, as a server sends it when"),
    "nothing": ("x.safetensors", b"", "is empty (0 bytes). Download it again."),
    "nothing as GGUF": ("x.gguf", b"", "is empty (0 bytes). Download it again."),
    "a cut file": ("x.safetensors", GOOD[: len(GOOD) // 2], "is damaged or not a safetensors file: its tensors have "),
    "a cut header": ("x.safetensors", GOOD[:100], "is damaged or not a safetensors file: its header has "),
    "a pickle": (
        "x.safetensors",
        pickled({}),
        "is a pickle of torch under another name, not a safetensors file. Rename",
    ),
    "GGUF": (
        "x.safetensors",
        b"GGUF" + bytes(60),
        "is a GGUF file under another name, not a safetensors file. Rename",
    ),
    "safetensors": (
        "x.ckpt",
        GOOD,
        "is a safetensors file under another name, not a pickle of torch. Rename",
    ),
    "safetensors as GGUF": (
        "x.gguf",
        GOOD,
        "is a safetensors file under another name, not a GGUF file. Rename",
    ),
    "text": ("x.safetensors", b"hello, this is text", "is damaged or not a safetensors file: "),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_named_for_what_it_is(kind: str, tmp_path: Path) -> None:
    name, content, text = FILES[kind]
    file = tmp_path / name
    file.write_bytes(content)
    for read in (sf.load, sf.inspect, sf.load_component):
        with pytest.raises(LoadError) as caught:
            read(file)
        assert text in str(caught.value) and str(file) in str(caught.value)
    if name.endswith(".ckpt"):
        with pytest.raises(LoadError) as caught:
            sf.load(file, allow_pickle=True)
        assert text in str(caught.value)


def test_a_config_that_is_a_pointer_is_named_for_what_it_is(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED / "vae", tmp_path / "vae")
    (folder / "config.json").write_bytes(FILES["a pointer"][1])
    with pytest.raises(LoadError, match=r"config\.json is a pointer of Git LFS"):
        sf.load_component(folder, "AutoencoderKL", manager=fresh())


OBJECTS = {
    "Callback, whose code is not run. Use a .safetensors file": pickled({"state_dict": {}, "callbacks": Callback()}),
    "cannot be read as plain tensors: it is damaged, or it has code, which is not run": pickle.dumps(Callback()),
}


@pytest.mark.parametrize("said", OBJECTS)
def test_objects_in_a_pickle_are_named_and_torchs_advice_is_not_shown(said: str, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(OBJECTS[said])
    with pytest.raises(LoadError) as caught:
        sf.load(file, allow_pickle=True)
    text = str(caught.value)
    assert said in text
    assert "weights_only" not in text and "\x1b" not in text


# ------------------------------------------------------------------------------------------------- after a refusal
def test_the_advice_of_a_refusal_works_and_only_for_those_who_follow_it(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED / "vae", tmp_path / "vae")
    torch.save(load_file(folder / WEIGHTS), folder / WEIGHTS.replace(".safetensors", ".bin"))
    (folder / WEIGHTS).unlink()
    for manager in (fresh(), None):
        for _ in range(2):
            with pytest.raises(LoadError, match="pass allow_pickle=True"):
                sf.load_component(folder, "AutoencoderKL", manager=manager)
            model = sf.load_component(folder, "AutoencoderKL", manager=manager, allow_pickle=True)
            assert model is sf.load_component(folder, "AutoencoderKL", manager=manager, allow_pickle=True)


# -------------------------------------------------------------------------------------------------------- indexes
def spec(hint: Any, name: str) -> dict[str, Any]:
    return {"type_hint": hint, "pretrained_model_name_or_path": None, "subfolder": name, "variant": None}


ENTRIES: dict[str, Callable[[str, list[str]], Any]] = {
    "nothing was loaded": lambda name, hint: [None, None, spec(hint, name)],
    "the class is in the pair alone": lambda name, hint: [*hint, {"subfolder": name, "revision": None}],
    "a null hint beside the pair": lambda name, hint: [*hint, spec(None, name)],
    "an entry of the older index": lambda name, hint: hint,
    "the class is in the config alone": lambda name, hint: [
        None, None, spec(hint if name in ("text_encoder", "tokenizer") else None, name)
    ],
}  # fmt: skip


@pytest.mark.parametrize("form", ENTRIES)
def test_an_entry_of_a_modular_index_may_have_its_class_anywhere(form: str, tmp_path: Path, emoji: Graph) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "emoji")
    classic = json.loads((folder / "model_index.json").read_text())
    parts = {name: hint for name, hint in classic.items() if isinstance(hint, list) and hint[0]}
    (folder / "model_index.json").unlink()
    index = {"_class_name": "StableDiffusionModularPipeline", "_blocks_class_name": "StableDiffusionAutoBlocks"}
    index |= {name: ENTRIES[form](name, hint) for name, hint in parts.items()}
    (folder / "modular_model_index.json").write_text(json.dumps(index))
    assert {n: list(s.type_hint or ()) for n, s in read_index(folder).loadable.items()} == parts
    assert torch.equal(
        sf.load(folder, manager=fresh())(**CALL).images, sf.load(EMBEDDED, manager=fresh())(**CALL).images
    )


# ------------------------------------------------------------------------------------------------------ addresses
HUB = "https://huggingface.co/acme/net"
ADDRESSES: dict[str, Address] = {
    HUB: Address("acme/net"),
    f"{HUB}/": Address("acme/net"),
    f"{HUB}/tree/main": Address("acme/net", "main"),
    f"{HUB}/tree/main/unet": Address("acme/net", "main", "unet"),
    f"{HUB}/tree/refs%2Fpr%2F3": Address("acme/net", "refs/pr/3"),
    f"{HUB}/tree/refs/pr/3/unet": Address("acme/net", "refs/pr/3", "unet"),
    f"{HUB}/resolve/main/a/b.safetensors?download=true": Address("acme/net", "main", "a/b.safetensors"),
    f"{HUB}/raw/v1/b.safetensors#L3": Address("acme/net", "v1", "b.safetensors"),
    "hf.co/acme/net/blob/main/b.gguf": Address("acme/net", "main", "b.gguf"),
    "http://www.huggingface.co/acme/net/blob/main/b%20c.gguf": Address("acme/net", "main", "b c.gguf"),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_read_as_a_browser_shows_it(address: str) -> None:
    assert parse_address(address) == ADDRESSES[address]


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (f"{HUB}/resolve/main/..%2F..%2Fetc/passwd.safetensors", "is not a repo, a folder or a file of the Hub"),
        (f"{HUB}/tree/..%2F..%2Fetc", "is not a repo, a folder or a file of the Hub"),
        (f"{HUB}/discussions/3", "is not a repo, a folder or a file of the Hub"),
        ("https://huggingface.co/acme", "is not a repo, a folder or a file of the Hub"),
        ("https://huggingface.co/datasets/acme/net", "is a data set of the Hub, and not a repo of a model"),
        ("https://elsewhere.example/a/b/blob/main/c.safetensors", "is not a repo or a file of the Hub at "),
        ("https://huggingface.co.example/a/b/blob/main/c.safetensors", "is not a repo or a file of the Hub at "),
    ],
)
def test_an_address_that_names_no_model_is_refused(address: str, text: str) -> None:
    with pytest.raises(LoadError, match=text):
        sf.load(address)


def test_a_text_that_names_no_server_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_address("acme/net") is parse_address(tmp_path) is parse_address("./hf.co/x") is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf.co").mkdir()
    assert parse_address("hf.co/acme/net") is None  # a folder of that name is what the user has made


def test_a_folder_for_the_cache_is_the_same_wherever_the_program_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    access = sf.Access(cache_dir="cache")
    assert access.cache_dir == str(tmp_path / "cache")
    monkeypatch.chdir("/")
    assert access == sf.Access(cache_dir=str(tmp_path / "cache"))
    assert sf.Access(cache_dir="~/cache").cache_dir == str(Path.home() / "cache")


# -------------------------------------------------------------------------------------------------------- prompts
def test_half_a_letter_in_a_prompt_is_the_sign_for_an_unknown_letter(emoji: Graph) -> None:
    tokenizer: Any = emoji.bindings["tokenizer"].load()
    assert tokenizer(["a \ud83d cat"]).input_ids == tokenizer(["a \ufffd cat"]).input_ids
    assert tokenizer(["\ud83e\udd8a"]).input_ids == tokenizer(["\U0001f98a"]).input_ids
    assert emoji(**{**CALL, "prompt": "a \ud83d cat"}).images.isfinite().all()


# ------------------------------------------------------------------------------------------------- sfumato check
def check(*args: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", *map(str, args)])
    return result.exit_code, result.stdout


def test_check_reads_the_headers_of_weights(tmp_path: Path) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "emoji")
    file = folder / "vae" / WEIGHTS
    good = file.read_bytes()
    assert check(folder) == (0, f"{folder}: ok (text2image, image2image, inpaint)\n")
    wrong = {b"": "is empty (0 bytes)", good[:-1000]: "its tensors have ", good[:50]: "its header has "}
    for content, text in wrong.items():
        file.write_bytes(content)
        code, out = check(folder)
        assert code == 1 and out.startswith("vae  ") and text in out
    shutil.copy(folder / "unet" / WEIGHTS, file)
    code, out = check(folder)
    assert code == 1 and "does not fit AutoencoderKL" in out and "No name fits" in out
    tensors = load_file(EMBEDDED / "vae" / WEIGHTS)
    save_file({name: tensor for name, tensor in tensors.items() if name != "decoder.conv_in.weight"}, file)
    code, out = check(folder)
    assert code == 1 and "missing: decoder.conv_in.weight" in out


def test_a_task_that_a_checkpoint_lacks_components_for_is_listed_and_no_problem(
    xl_checkpoint: Callable[[str], Path],
) -> None:
    base = xl_checkpoint("base")
    code, out = check(base)
    first, second = out.splitlines()
    assert code == 0 and first == f"{base}: ok (text2image, image2image, inpaint)"
    assert second.startswith(f"{base}: no components for the task refined, which needs ")
    result = CliRunner().invoke(app, ["check", str(base), "--json"])
    assert result.exit_code == 0 and list(json.loads(result.stdout)["not_served"]) == ["refined"]
    assert check(base, "--task", "refined")[0] == 1  # it was asked for
