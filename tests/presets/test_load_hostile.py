"""What an expert would try besides: pipes in place of files, names with NUL, numbers that overflow, files that lie."""

import json
import os
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

import sfumato as sf
from sfumato.components.manager import ComponentsManager

from .remote import DIM, FLIP, MARK, put, refusal
from .remote import kept as kept
from .support import EMBEDDED
from .test_load_malicious import WEIGHTS, modular, used

REFUSED = (sf.LoadError, sf.GraphFileError)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "checkpoint")


def graph_of(path: Path) -> Path:
    """A folder with this graph file alone."""
    path.parent.mkdir()
    return path


# ---------------------------------------------------------------------------------------------------- not a plain files
@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among its files")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", f"unet/{WEIGHTS}", "tokenizer/vocab.json", "tokenizer/merges.txt",
     "scheduler/scheduler_config.json", "graph.json"],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder: Path, name: str, linked: bool) -> None:
    file = folder / name
    file.unlink(missing_ok=True)
    os.mkfifo(folder / "pipe" if linked else file)
    if linked:
        file.symlink_to(folder / "pipe")
    with pytest.raises(REFUSED, match="is not a plain file"):
        used(folder)
    with pytest.raises(REFUSED, match="not a plain file"):
        sf.Graph.load(folder / name) if name == "graph.json" else used(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes among its files")
def test_a_pipe_in_place_of_a_whole_checkpoint_or_of_code(tmp_path: Path) -> None:
    for name in ("x.safetensors", "x.ckpt", "x.gguf"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(sf.LoadError, match="no such file"):
            sf.load(tmp_path / name)
    os.mkfifo(put(tmp_path / "repo", {}) / "block.py")
    assert "block.py: is not a plain file" in refusal(tmp_path / "repo", trust_remote_code=True)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="has no devices among its files")
def test_weights_that_lead_to_a_device_are_refused(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / WEIGHTS).symlink_to("/dev/zero")
    with pytest.raises(sf.LoadError, match="is a link that leads out of"):
        used(folder)


# ---------------------------------------------------------------------------------------------------- names
@pytest.mark.parametrize(
    "subfolder", ["..", "../x", "/etc", "a/../../b", "C:\\x", "..\\..", "\\\\host\\share", "unet\0"]
)
def test_a_subfolder_is_inside(folder: Path, subfolder: str) -> None:
    for made in (sf.load, sf.inspect, sf.load_component):
        with pytest.raises(sf.LoadError, match="needs a subfolder inside"):
            made(folder, subfolder=subfolder)
    modular(folder, subfolder=subfolder)
    with pytest.raises(sf.LoadError, match="leads out of the folder"):
        used(folder)


@pytest.mark.parametrize(
    "name", ["a\0.safetensors", "C:\\x.safetensors", "x/../y.safetensors", 3, ["x.safetensors"], None]
)
def test_a_shard_has_a_plain_name(folder: Path, name: Any) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    (folder / "unet" / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    with pytest.raises(sf.LoadError, match="names the shard"):
        used(folder)


def test_the_last_of_two_equal_keys_gets_no_further_than_the_first(folder: Path) -> None:
    text = (folder / "model_index.json").read_text().rstrip()
    (folder / "model_index.json").write_text(text[:-1] + ', "unet": ["os", "system"]}')
    with pytest.raises(sf.LoadError, match="has the key 'unet' twice"):
        used(folder)
    sf.load("emoji").save(folder / "saved")
    file = folder / "saved/graph.json"
    file.write_text(file.read_text().rstrip()[:-1] + ', "format": 1}')
    with pytest.raises(sf.GraphFileError, match="twice"):
        sf.load(folder / "saved")


# ---------------------------------------------------------------------------------------------------- numbers
def test_a_number_of_more_digits_than_python_reads(folder: Path) -> None:
    digits = "9" * 6000
    config = folder / "unet/config.json"
    config.write_text(config.read_text().rstrip()[:-1] + f', "x": {digits}}}')
    with pytest.raises(sf.LoadError, match="has 6,000 digits, and the limit is 40"):
        used(folder)
    (folder / "graph.json").write_text(f'{{"format": {digits}}}')
    with pytest.raises(sf.GraphFileError, match="has 6,000 digits, and the limit is 40"):
        sf.load(folder)


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"[" * 200_000, "nested more than 128 levels"), (None, "has 10,000,000,000 bytes, and the limit is")],
)
def test_a_graph_file_that_is_too_deep_or_too_large(data: bytes | None, said: str, tmp_path: Path) -> None:
    file = graph_of(tmp_path / "saved/graph.json")
    file.write_bytes(data or b"")
    if data is None:
        os.truncate(file, 10**10)  # takes no disk
    for made in (lambda: sf.load(file.parent), lambda: sf.Graph.load(file), lambda: sf.inspect(file.parent)):
        with pytest.raises(sf.GraphFileError, match=said):
            made()


def tensors(header: Any, data: bytes = bytes(4)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**60) + b"{}",
        tensors({"a": ONE, "b": ONE}),
        tensors({"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}, bytes(6)),
        tensors({"a": {**ONE, "shape": [2**40, 2**40]}}),
        tensors({"a": {**ONE, "shape": [-1]}}),
        tensors({"a": {**ONE, "data_offsets": [4, 0]}}),
        tensors({"a": ONE}, bytes(4 + 2**10)),
        tensors(b'{"a":' * 10_000),
    ],
    ids=["2**60", "one place for two", "overlap", "overflow", "negative", "backwards", "a tail", "deep"],
)
def test_headers_of_weights_that_lie_with_skill(folder: Path, data: bytes) -> None:
    (folder / "unet" / WEIGHTS).write_bytes(data)
    with pytest.raises(sf.LoadError, match="damaged or not a safetensors"):
        used(folder)


def text(word: bytes) -> bytes:
    return struct.pack("<Q", len(word)) + word


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<QQ", 2**62, 0),
        struct.pack("<QQ", 0, 2**62),
        struct.pack("<QQQ", 0, 1, 2**62) + b"x",
        struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<IIQ", 9, 0, 2**60),
        struct.pack("<QQ", 0, 1) + text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000,
        struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<I", 2**31),
        struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0) + bytes(100),
        struct.pack("<QQ", 1, 0) + text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**63) + bytes(100),
        struct.pack("<QQ", 0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
    ],
    ids=["tensors", "keys", "a text", "an array", "deep arrays", "sides", "a shape", "an offset", "alignment 0"],
)
def test_gguf_files_that_lie_about_their_size(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + struct.pack("<I", 3) + data)
    for made in (sf.load, sf.inspect):
        with pytest.raises(sf.LoadError, match=r"x\.gguf"):
            made(file)


# ---------------------------------------------------------------------------------------------------- code
SLOW = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
SPLIT = {"type": "Split", "pattern": {"Regex": "(a|a)*$"}, "behavior": "Isolated", "invert": False}


@pytest.mark.filterwarnings("ignore:The prompt is longer")
@pytest.mark.parametrize("more", [{"normalizer": SLOW}, {"pre_tokenizer": SPLIT}])
def test_a_pattern_of_a_tokenizer_file_is_not_matched(folder: Path, more: dict[str, Any]) -> None:
    """The patterns are our own, so the words are read at once."""
    words = json.loads((folder / "tokenizer/vocab.json").read_text())
    model = {"type": "BPE", "vocab": words, "merges": [], "unk_token": "<|endoftext|>"}
    file = {"version": "1.0", "added_tokens": [], "model": model, "normalizer": None, "pre_tokenizer": None, **more}
    (folder / "tokenizer/tokenizer.json").write_text(json.dumps(file))
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).unlink()
    pipe = sf.load(folder, manager=ComponentsManager())
    assert pipe.only("positive")(prompt="a" * 5000 + "!").positive.rows == 1


def test_a_hash_that_only_begins_as_the_code_s_is_another(tmp_path: Path) -> None:
    repo = put(tmp_path / "repo", {"block.py": MARK + FLIP})
    digest = refusal(repo).partition('trust_remote_code="sha256:')[2][:64]
    for other in (digest[:-1] + ("0" if digest[-1] != "0" else "1"), digest[:16] + "0" * 48):
        assert "trust_remote_code names other code" in refusal(repo, trust_remote_code=f"sha256:{other}")
    for bad in (digest[:16], digest.upper(), f"{digest}0"):
        assert "needs True, 'isolated'" in refusal(repo, trust_remote_code=f"sha256:{bad}")
    assert not (repo / "ran").exists()


def test_a_kept_text_that_was_changed_is_not_believed(tmp_path: Path, kept: Path) -> None:
    """Who can write to the folder of what was trusted cannot make other code look like it."""
    repo = put(tmp_path / "repo", {"block.py": FLIP})
    sf.load(repo, trust_remote_code=True)
    for file in (kept / "files").iterdir():
        file.write_text(MARK + DIM)
    put(repo, {"block.py": MARK + DIM})
    assert "Its old text was removed." in refusal(repo, trust_remote_code=True)
    assert not (repo / "ran").exists()


def test_what_is_called_bin_and_is_none_runs_nothing(folder: Path) -> None:
    """YAML, text or a script under a weight's name is no pickle that torch reads as plain tensors."""
    (folder / "unet" / WEIGHTS).unlink()
    for data in (
        b"!!python/object/apply:os.system ['touch proof']",
        b"cos\nsystem\n(S'touch proof'\ntR.",
        b"#!/bin/sh\n",
    ):
        (folder / "unet/diffusion_pytorch_model.bin").write_bytes(data)
        with pytest.raises(sf.LoadError, match="cannot be read as plain"):
            used(folder, allow_pickle=True)
    assert not Path("proof").exists()
