"""Safetensors files in the folder of a component: headers that lie, dtypes and shapes that do not fit, damage."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..checkpoint import WEIGHTS, checkpoint, used
from ..table import Action, Hostile, drawn, repeats

ONE: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
FILES = {"unet": WEIGHTS, "vae": WEIGHTS, "text_encoder": "model.safetensors"}
CONTROL = "\x1b[31m\x07\x00\x9b\u202e"


def packed(header: object, data: bytes = bytes(4)) -> bytes:
    """A safetensors file of this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x00",
    "seven bytes": bytes(7),
    "eight zeros": bytes(8),
    "a length of 2**64-1": b"\xff" * 8 + b"{}",
    "a length of 99 MB": struct.pack("<Q", 99_000_000) + b"{" * 1000,
    "a list": packed([1, 2]),
    "null": packed(None),
    "a number": packed(7),
    "a text": packed("x"),
    "no tensor": packed({}),
    "only metadata": packed({"__metadata__": {"format": "pt"}}),
    "metadata of numbers": packed({"__metadata__": {"format": 1}, "a": ONE}),
    "metadata is a list": packed({"__metadata__": [1], "a": ONE}),
    "metadata of another library": packed({"__metadata__": {"format": "tf"}, "a": ONE}),
    "deep": packed(b'{"a":' * 100_000),
    "deep metadata": packed(b'{"__metadata__":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "not UTF-8": packed(b'{"\xff\xfe":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "a lone surrogate": packed(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "a name twice": packed(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "an unknown dtype": packed({"a": {**ONE, "dtype": "Q4"}}),
    "a dtype that is a number": packed({"a": {**ONE, "dtype": 3}}),
    "a dtype with control characters": packed({"a": {**ONE, "dtype": CONTROL}}),
    "a shape of fractions": packed({"a": {**ONE, "shape": [1.0]}}),
    "a shape of texts": packed({"a": {**ONE, "shape": ["1"]}}),
    "a shape of 2**62": packed({"a": {**ONE, "shape": [2**62]}}),
    "a shape whose product overflows to 1": packed({"a": {**ONE, "shape": [2**32, 2**32, 1]}}),
    "a shape of 10**5 sides": packed({"a": {**ONE, "shape": [1] * 100_000}}),
    "offsets of texts": packed({"a": {**ONE, "data_offsets": ["0", "4"]}}),
    "one offset": packed({"a": {**ONE, "data_offsets": [0]}}),
    "offsets below zero": packed({"a": {**ONE, "data_offsets": [-4, 0]}}),
    "offsets of 2**63": packed({"a": {**ONE, "data_offsets": [2**63, 2**63 + 4]}}),
    "a hole": packed({"a": ONE, "b": {**ONE, "data_offsets": [8, 12]}}, bytes(12)),
    "unknown keys": packed({"a": {**ONE, "more": [CONTROL]}}),
    "spaces before": packed(b"   " + json.dumps({"a": ONE}).encode()),
    "200,000 tensors without bytes": packed(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(200_000)}, b""
    ),
    "a name of 10 MB": packed({"x" * 10**7: ONE}),
    "names with control characters": packed({CONTROL: ONE}),
    "a name with lines": packed({"a\nTraceback\r\n\nerror: ok": ONE}),
    "an empty name": packed({"": ONE}),
    "a web page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
    "a pointer of LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99999999999999999999\n",
    "a pointer of LFS of many digits": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize "
    + b"9" * 3900
    + b"\n",
    "a zip": b"PK\x03\x04" + bytes(100),
    "a pickle": b"\x80\x02}q\x00.",
    "a GGUF": b"GGUF" + bytes(100),
    "zeros": bytes(4096),
    "text": b"hello " * 100,
}


def inputs() -> Iterator[Hostile]:
    """Headers, then changed tensors, then bytes changed at random."""
    for name, data in HEADERS.items():
        yield Hostile(f"header: {name}", lambda place, data=data: _with(place, "unet", data))
    for name, change in TENSORS.items():
        for part in ("unet", "text_encoder"):
            yield Hostile(f"tensors of the {part}: {name}", lambda place, c=change, p=part: _changed(place, p, c))
    for k in repeats(16):
        yield Hostile(f"bytes changed at random {k}", lambda place, k=k: _flipped(place, k, header=False))
        yield Hostile(f"bytes of the header changed at random {k}", lambda place, k=k: _flipped(place, k, header=True))
    for k in repeats(8):
        yield Hostile(f"cut at random {k}", lambda place, k=k: _cut(place, k))


def _with(place: Path, part: str, data: bytes) -> Action:
    folder = checkpoint(place)
    (folder / part / FILES[part]).write_bytes(data)
    return used(folder)


Tensors = dict[str, torch.Tensor]


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: change(tensor).contiguous() for name, tensor in tensors.items()}


def _first(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    def changed(tensors: Tensors) -> Tensors:
        name = max(tensors, key=lambda n: tensors[n].ndim)
        return {**tensors, name: change(tensors[name]).contiguous()}

    return changed


TENSORS: dict[str, Callable[[Tensors], Tensors]] = {
    "int64": _each(lambda t: t.to(torch.int64)),
    "one of int32": _first(lambda t: t.to(torch.int32)),
    "one of uint8": _first(lambda t: t.to(torch.uint8)),
    "one of bool": _first(lambda t: t.bool()),
    "complex64": _each(lambda t: t.to(torch.complex64)),
    "one of complex64": _first(lambda t: t.to(torch.complex64)),
    "float64": _each(lambda t: t.double()),
    "float8": _each(lambda t: t.to(torch.float8_e4m3fn)),
    "not a number": _each(lambda t: torch.full_like(t, float("nan"))),
    "one not a number": _first(lambda t: torch.full_like(t, float("nan"))),
    "infinite": _each(lambda t: torch.full_like(t, float("inf"))),
    "as large as possible": _each(lambda t: torch.full_like(t, 65504.0)),
    "zero": _each(torch.zeros_like),
    "one without numbers": _first(lambda t: t[:0]),
    "all without numbers": _each(lambda t: t.flatten()[:0]),
    "one is a number": _first(lambda t: t.flatten()[0].clone()),
    "one with a side more": _first(lambda t: t[None]),
    "one with many sides": _first(lambda t: t.reshape(*t.shape, *[1] * 60)),
    "one turned": _first(lambda t: t.transpose(0, 1)),
    "one twice as long": _first(lambda t: torch.cat([t, t])),
    "one missing": lambda tensors: dict(list(tensors.items())[1:]),
    "all but one missing": lambda tensors: dict(list(tensors.items())[:1]),
    "one more": lambda tensors: {**tensors, "more.weight": torch.ones(3)},
    "one with control characters more": lambda tensors: {**tensors, f"a{CONTROL}": torch.ones(3)},
    "names with lines": lambda tensors: {f"{name}\n\r{CONTROL}": tensor for name, tensor in tensors.items()},
    "2000 more": lambda tensors: {**tensors, **{f"more.{i}.{'y' * 400}": torch.ones(1) for i in range(2000)}},
}


def _changed(place: Path, part: str, change: Callable[[Tensors], Tensors]) -> Action:
    folder = checkpoint(place)
    file = folder / part / FILES[part]
    save_file(change({name: t.clone() for name, t in load_file(file).items()}), file, metadata={"format": "pt"})
    return used(folder)


def _flipped(place: Path, k: int, *, header: bool) -> Action:
    random = drawn(f"flipped {k} {header}")
    folder = checkpoint(place)
    part = random.choice([*FILES])
    file = folder / part / FILES[part]
    data = bytearray(file.read_bytes())
    end = 8 + struct.unpack("<Q", data[:8])[0] if header else len(data)
    for _ in range(random.choice([1, 3, 30])):
        data[random.randrange(end)] = random.randrange(256)
    file.write_bytes(data)
    return used(folder)


def _cut(place: Path, k: int) -> Action:
    random = drawn(f"cut {k}")
    folder = checkpoint(place)
    file = folder / "unet" / WEIGHTS
    os.truncate(file, random.randrange(file.stat().st_size))
    return used(folder)
