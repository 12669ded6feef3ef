"""Files of embeddings: each published layout, and files from strangers."""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Embedding, LoadError
from sfumato.components.adapters.reading import adapter_of

L, G, T5, ONE = torch.rand(2, 768), torch.rand(2, 1280), torch.rand(2, 4096), torch.rand(1024)
A1111: Mapping[str, Any] = {
    "string_to_token": {"*": 265}, "string_to_param": {"*": L}, "name": "inner", "step": 5, "sd_checkpoint": None,
    "sd_checkpoint_name": None,
}  # fmt: skip


def saved(folder: Path, content: Any, name: str) -> Path:
    if name.endswith(".safetensors"):
        save_file(content, folder / name)
    else:
        torch.save(content, folder / name)
    return folder / name


def shown(embedding: Embedding) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.encoder, tuple(one.inputs.shape)) for one in embedding.vectors]


SAFE = "cat.safetensors"
LAYOUTS: Mapping[str, tuple[Any, str, str, list[tuple[str, tuple[int, ...]]]]] = {
    "diffusers": ({"<cat-toy>": ONE}, SAFE, "<cat-toy>", [("", (1, 1024))]),
    "diffusers, pickled": ({"<cat-toy>": L}, "cat.bin", "<cat-toy>", [("", (2, 768))]),
    "A1111": (A1111, "cat.pt", "cat", [("", (2, 768))]),
    "A1111 of 2022": (
        {**A1111, "string_to_param": nn.ParameterDict({"*": nn.Parameter(L)})}, "cat.pt", "cat", [("", (2, 768))],
    ),
    "A1111, safetensors": ({"emb_params": L}, SAFE, "cat", [("", (2, 768))]),
    "SDXL": ({"clip_l": L, "clip_g": G}, SAFE, "cat", [("clip_g", (2, 1280)), ("clip_l", (2, 768))]),
    "pivotal, Flux": ({"clip_l": L, "t5": T5}, SAFE, "cat", [("clip_l", (2, 768)), ("t5", (2, 4096))]),
    "pivotal, replicate": (
        {"text_encoders_0": L, "text_encoders_1": G}, SAFE, "<s0><s1>", [("clip_l", (2, 768)), ("clip_g", (2, 1280))],
    ),
    "ComfyUI": ([{"a": L[:1]}, [{"b": G}, {"c": L[1:]}]], "cat.pt", "cat", [("", (2, 768)), ("", (2, 1280))]),
    "OneTrainer": ({"bundle_emb.<kat>.clip_l": L}, SAFE, "<kat>", [("clip_l", (2, 768))]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, tmp_path: Path) -> None:
    content, name, token, vectors = LAYOUTS[layout]
    embedding = sf.load_embedding(saved(tmp_path, content, name), allow_pickle=True)
    assert (embedding.name, embedding.token) == ("cat", token)
    assert sorted(shown(embedding)) == sorted(vectors)
    named = sf.load_embedding(tmp_path / name, name="pet", token=None if "<kat>" in token else "dog", allow_pickle=True)
    assert (named.name, named.token) == ("pet", "<kat>" if "<kat>" in token else "dog")


def test_a_bare_tensor_needs_a_word(tmp_path: Path) -> None:
    file = saved(tmp_path, L, "cat.pt")
    with pytest.raises(LoadError, match=r"is one tensor without a word\. Pass token= with the word of the prompt\."):
        sf.load_embedding(file, allow_pickle=True)
    assert torch.equal(sf.load_embedding(file, token="cat", allow_pickle=True).vectors[0].inputs, L)


def test_a_file_with_several_words_needs_a_choice(tmp_path: Path) -> None:
    file = saved(tmp_path, {"<a>": L, "<b>": L + 1}, SAFE)
    with pytest.raises(LoadError, match=r"has 2 words\. Choose one with token=: <a>, <b>\."):
        sf.load_embedding(file)
    assert torch.equal(sf.load_embedding(file, token="<b>").vectors[0].inputs, L + 1)


def test_embeddings_in_the_file_of_a_lora_are_part_of_the_adapter() -> None:
    tensors = {
        "unet.x.lora_A.weight": torch.ones(2, 8), "unet.x.lora_B.weight": torch.ones(8, 2),
        "bundle_emb.<kat>.clip_l": L, "bundle_emb.<kat>.clip_l_out": L + 1, "bundle_emb.dog.string_to_param.*": L,
    }  # fmt: skip
    kat, dog = adapter_of(tensors.items(), name="a", source="made here").content.embeddings
    assert (kat.token, dog.token) == ("<kat>", "dog")
    assert kat.vectors[0].outputs is not None
    assert torch.equal(kat.vectors[0].outputs, L + 1)


def picture_data() -> bytes:
    stored = {**A1111, "string_to_param": {"*": {"TORCHTENSOR": L.tolist()}}}
    return json.dumps(stored).encode()


def with_data(data: bytes, rows: int = 256) -> Image.Image:
    """A picture as A1111 writes it: half bytes of the packed data in the low bits of columns left and right of it."""
    packed = np.frombuffer(zlib.compress(data, 9), np.uint8)
    size = -(-len(packed) // (rows * 3)) * rows * 3

    def block(halves: NDArray[Any]) -> NDArray[Any]:
        state, mask = 0, np.zeros(size, np.uint8)
        for i in range(size):
            state = (1664525 * state + 1013904223) % 2**32
            mask[i] = state % 255 & 15
        return ((np.resize(halves, size) ^ mask) | 0xA0).reshape(rows, -1, 3)

    black = np.zeros((rows, 1, 3), np.uint8)
    middle = np.full((rows, 64, 3), 0x61, np.uint8)
    return Image.fromarray(np.hstack([block(packed & 15), black, middle, black, block(packed >> 4)]))


@pytest.mark.parametrize("how", ["text", "pixels"])
def test_pictures_of_a1111_are_read(how: str, tmp_path: Path) -> None:
    if how == "text":
        info = PngInfo()
        info.add_text("sd-ti-embedding", base64.b64encode(picture_data()).decode())
        Image.new("RGB", (8, 8)).save(tmp_path / "cat.png", pnginfo=info)
    else:
        with_data(picture_data()).save(tmp_path / "cat.png")
    embedding = sf.load_embedding(tmp_path / "cat.png")
    assert embedding.notes == ("The file calls itself 'inner'.",)
    assert torch.equal(embedding.vectors[0].inputs, L)


def test_other_pictures_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "cat.png")
    with pytest.raises(LoadError, match="is a picture without an embedding"):
        sf.load_embedding(tmp_path / "cat.png")
    info = PngInfo()
    info.add_text("sd-ti-embedding", "no base64")
    Image.new("RGB", (8, 8)).save(tmp_path / "dog.png", pnginfo=info)
    with pytest.raises(LoadError, match="its embedding cannot be read"):
        sf.load_embedding(tmp_path / "dog.png")


HOSTILE: Mapping[str, tuple[Mapping[str, Tensor], str]] = {
    "NaN": ({"<a>": torch.full((1, 8), torch.nan)}, "has NaN or infinite numbers"),
    "infinite": ({"emb_params": torch.full((8,), torch.inf)}, "has NaN or infinite numbers"),
    "whole numbers": ({"<a>": torch.ones(8, dtype=torch.int64)}, r"needs a tensor of floating numbers\. Got torch.int"),
    "three axes": ({"<a>": torch.ones(1, 2, 8)}, r"needs the shape .* Got \(1, 2, 8\)"),
    "a point": ({"<a>": torch.ones(())}, "needs the shape"),
    "no numbers": ({"<a>": torch.ones(0, 8)}, "needs the shape"),
    "too many": ({"<a>": torch.ones(1025, 2)}, "has 1,025 vectors, and the limit is 1,024"),
    "unequal": ({"clip_l": L, "clip_g": G[:1]}, "has 1 vector for clip_g, 2 vectors for clip_l"),
    "a LoRA": ({"x.lora_A.weight": L, "x.lora_B.weight": L + 1}, r"of no known kind of embedding: .*sf\.load_adapter"),
    "an empty word": ({" ": L}, "cannot have the token ' '"),
    "a control character": ({"<a\x1b>": L}, "cannot have the token"),
    "an unknown encoder": ({"bundle_emb.<a>.clip_x": L}, "names no text encoder"),
    "outputs of another shape": ({"clip_l": L, "clip_l_out": L[:1] + 1}, "They need the same"),
}  # fmt: skip


@pytest.mark.parametrize("tensors", HOSTILE.values(), ids=HOSTILE)
def test_files_from_strangers_are_refused(tensors: tuple[Mapping[str, Tensor], str], tmp_path: Path) -> None:
    content, text = tensors
    with pytest.raises(LoadError, match=text):
        sf.load_embedding(saved(tmp_path, dict(content), "x.safetensors"))


class Runs:
    """An object whose pickle would call a function."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("code ran",)


def test_pickles_run_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, {"string_to_param": {"*": L}, "name": Runs()}, "cat.pt")
    with pytest.raises(LoadError, match="is a pickle, which can have code"):
        sf.load_embedding(file)
    with pytest.raises(LoadError, match="whose code is not run"):
        sf.load_embedding(file, allow_pickle=True)
    assert not capsys.readouterr().out


def test_pickles_with_repeated_numbers_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, {"<a>": torch.ones(1).expand(1000, 100)}, "cat.pt")
    with pytest.raises(LoadError, match="has more numbers than the file"):
        sf.load_embedding(file, allow_pickle=True)


def test_other_keys_beside_the_parameters_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, {**A1111, "more": L}, "cat.pt")
    with pytest.raises(LoadError, match="has string_to_param and unknown keys: more"):
        sf.load_embedding(file, allow_pickle=True)
