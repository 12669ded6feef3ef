"""Indexes of shards: names that lead elsewhere, tensors in the wrong shard, counts beyond reason."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import WEIGHTS, checkpoint, used
from ..table import Action, Hostile
from .weights import CONTROL, packed

NAMES: dict[str, Any] = {
    "above": "../unet/a.safetensors",
    "absolute": "/etc/passwd",
    "absolute with the right end": "/etc/passwd.safetensors",
    "of the home folder": "~/a.safetensors",
    "of another drive": "C:a.safetensors",
    "with backslashes": "..\\a.safetensors",
    "with NUL": "a\0.safetensors",
    "with control characters": f"{CONTROL}.safetensors",
    "with a line end": "a\n.safetensors",
    "too long": "a" * 300 + ".safetensors",
    "far too long": "a" * 100_000 + ".safetensors",
    "empty": "",
    "hidden": ".a.safetensors",
    "a number": 7,
    "a list": ["a.safetensors"],
    "an object": {"a.safetensors": 1},
    "null": None,
    "true": True,
    "a lone surrogate": "\ud800.safetensors",
    "the index itself": f"{WEIGHTS}.index.json",
    "a pickle": "a.bin",
    "missing": "a.safetensors",
    "an address": "https://example.com/a.safetensors",
    "a folder": "folder.safetensors",
    "a full-width slash": "..／a.safetensors",
}
INDEXES: dict[str, Any] = {
    "a list": [],
    "null": None,
    "no map": {},
    "a map that is null": {"weight_map": None},
    "a map that is a list": {"weight_map": ["a.safetensors"]},
    "a map that is a text": {"weight_map": "a.safetensors"},
    "an empty map": {"weight_map": {}},
    "metadata that is a list": {"metadata": [], "weight_map": {"a": "a.safetensors"}},
    "100,000 shards": {"weight_map": {f"t{i}": f"s{i}.safetensors" for i in range(100_000)}},
    "100,000 names of a shard": {"weight_map": {f"t{i}": "real.safetensors" for i in range(100_000)}},
    "a size of 10**400": {"metadata": {"total_size": 10**400}, "weight_map": {"a": "real.safetensors"}},
    "a size that is a text": {"metadata": {"total_size": CONTROL}, "weight_map": {"a": "real.safetensors"}},
}
TEXTS = {
    "deep": b"[" * 100_000,
    "deep in the map": b'{"weight_map":' + b'{"a":' * 5000,
    "empty": b"",
    "not UTF-8": b'{"weight_map": {"\xff": "a.safetensors"}}',
    "UTF-16": '{"weight_map": {}}'.encode("utf-16"),
    "with a mark of order": b'\xef\xbb\xbf{"weight_map": {}}',
    "a web page": b"<html>Sign in</html>",
    "not a number": b'{"weight_map": {"a": NaN}}',
    "many digits": b'{"weight_map": {"a": ' + b"9" * 100_000 + b"}}",
    "NUL": b"\0" * 100,
}


def inputs() -> Iterator[Hostile]:
    """Names of shards, whole indexes, and texts that are no JSON."""
    for name, shard in NAMES.items():
        text = json.dumps({"weight_map": {"conv_in.weight": shard}}).encode()
        yield Hostile(f"a shard's name: {name}", lambda place, text=text: _indexed(place, text))
        if isinstance(shard, str):
            more = json.dumps({"weight_map": {"a": "real.safetensors", "b": shard}}).encode()
            yield Hostile(f"a second shard's name: {name}", lambda place, text=more: _indexed(place, text))
    for name, index in INDEXES.items():
        yield Hostile(f"index: {name}", lambda place, index=index: _indexed(place, json.dumps(index).encode()))
    for name, text in TEXTS.items():
        yield Hostile(f"text: {name}", lambda place, text=text: _indexed(place, text))
    yield Hostile("the same tensor in two shards", _twice)
    yield Hostile("shards that name each other's tensors", _crossed)


def _indexed(place: Path, text: bytes) -> Action:
    folder = checkpoint(place)
    (folder / "unet" / WEIGHTS).rename(folder / "unet/real.safetensors")
    (folder / "unet/folder.safetensors").mkdir()
    (folder / "unet" / f"{WEIGHTS}.index.json").write_bytes(text)
    return used(folder)


def _twice(place: Path) -> Action:
    action = _indexed(place, b'{"weight_map": {"conv_in.weight": "real.safetensors", "conv_in.bias": "b.safetensors"}}')
    one = {"conv_in.bias": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}
    (place / "checkpoint/unet/b.safetensors").write_bytes(packed(one, b"\xff" * 128))
    return action


def _crossed(place: Path) -> Action:
    action = _indexed(place, b'{"weight_map": {"a": "real.safetensors", "conv_in.bias": "b.safetensors"}}')
    (place / "checkpoint/unet/b.safetensors").write_bytes(
        packed({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    )
    return action
