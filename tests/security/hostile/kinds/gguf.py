"""GGUF files: counts, kinds, shapes and offsets that lie."""

import struct
from collections.abc import Iterator
from pathlib import Path

from ..checkpoint import used
from ..table import Action, Hostile, drawn, repeats
from .weights import CONTROL

U8, I32, F32, BOOL, TEXT, ARRAY, U64 = 0, 5, 6, 7, 8, 9, 10


def text(word: bytes | str, length: int | None = None) -> bytes:
    """A text with its length."""
    data = word.encode("utf-8", "surrogatepass") if isinstance(word, str) else word
    return struct.pack("<Q", len(data) if length is None else length) + data


def file(
    keys: bytes = b"", tensors: bytes = b"", n_keys: int = 0, n_tensors: int = 0, data: bytes = b"", version: int = 3
) -> bytes:
    """A file of these parts, aligned to 32 bytes."""
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + keys + tensors
    return head + bytes(-len(head) % 32) + data


def key(name: bytes | str, kind: int, value: bytes) -> bytes:
    """One entry."""
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: bytes | str, sides: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """The description of one tensor."""
    shape = struct.pack(f"<{len(sides)}Q", *(s % 2**64 for s in sides))
    return text(name) + struct.pack("<I", len(sides)) + shape + struct.pack("<IQ", kind, offset % 2**64)


NAME = "double_blocks.0.img_attn.qkv.weight"
FILES: dict[str, bytes] = {
    "only the mark": b"GGUF",
    "nothing in it": file(),
    "version 0": file(version=0),
    "version 1": file(version=1),
    "version 2**31": file(version=2**31),
    "of the other byte order": b"GGUF" + struct.pack(">IQQ", 3, 1, 1),
    "2**63 tensors": file(n_tensors=2**63),
    "10**6 tensors in 100 bytes": file(n_tensors=10**6, data=bytes(100)),
    "2**63 keys": file(n_keys=2**63),
    "a key of 2**63 bytes": file(text(b"a", 2**63), n_keys=1),
    "a key that is not UTF-8": file(key(b"\xff\xfe", U8, b"\x01"), n_keys=1),
    "a key with control characters": file(key(CONTROL, U8, b"\x01"), n_keys=1),
    "a key twice": file(key("a", U8, b"\x01") * 2, n_keys=2),
    "an unknown kind of value": file(key("a", 99, b"\x01"), n_keys=1),
    "a kind of 2**32-1": file(key("a", 2**32 - 1, b"\x01"), n_keys=1),
    "a truth value of 7": file(key("a", BOOL, b"\x07"), n_keys=1),
    "an array of 2**60 numbers": file(key("a", ARRAY, struct.pack("<IQ", U8, 2**60)), n_keys=1),
    "an array of arrays of arrays": file(key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 100_000), n_keys=1),
    "an array of 10**7 texts without letters": file(
        key("a", ARRAY, struct.pack("<IQ", TEXT, 10**6) + bytes(8 * 10**6)), n_keys=1
    ),
    "an array of 5 MB": file(key("a", ARRAY, struct.pack("<IQ", U8, 5 * 10**6) + bytes(5 * 10**6)), n_keys=1),
    "an alignment of 0": file(key("general.alignment", 4, struct.pack("<I", 0)), n_keys=1),
    "an alignment of 3": file(key("general.alignment", 4, struct.pack("<I", 3)), n_keys=1),
    "an alignment of 2**31": file(
        key("general.alignment", 4, struct.pack("<I", 2**31)), tensor(NAME, (4,)), n_keys=1, n_tensors=1
    ),
    "an alignment that is a text": file(key("general.alignment", TEXT, text("x")), n_keys=1),
    "an alignment below zero": file(key("general.alignment", I32, struct.pack("<i", -32)), n_keys=1),
    "an architecture with control characters": file(key("general.architecture", TEXT, text(CONTROL)), n_keys=1),
    "an architecture that is a number": file(
        key("general.architecture", F32, struct.pack("<f", float("nan"))), n_keys=1
    ),
    "an architecture that runs": file(
        key("general.architecture", TEXT, text("flux")), tensor(NAME, (4, 12)), n_keys=1, n_tensors=1, data=bytes(192)
    ),
    "no side": file(b"", tensor(NAME, ()), n_tensors=1, data=bytes(4)),
    "5 sides": file(b"", tensor(NAME, (1,) * 5), n_tensors=1, data=bytes(4)),
    "2**31 sides": file(b"", text(NAME) + struct.pack("<I", 2**31), n_tensors=1),
    "a side of 0": file(b"", tensor(NAME, (0, 4)), n_tensors=1),
    "a side of 2**63": file(b"", tensor(NAME, (2**63,)), n_tensors=1, data=bytes(4)),
    "sides that overflow to 4": file(b"", tensor(NAME, (2**32, 2**32, 4)), n_tensors=1, data=bytes(16)),
    "an unknown type": file(b"", tensor(NAME, (32,), 255), n_tensors=1, data=bytes(64)),
    "a type that was removed": file(b"", tensor(NAME, (32,), 4), n_tensors=1, data=bytes(64)),
    "64-bit integers": file(b"", tensor(NAME, (4,), 27), n_tensors=1, data=bytes(32)),
    "part of a block": file(b"", tensor(NAME, (33,), 2), n_tensors=1, data=bytes(64)),
    "an offset beyond the file": file(b"", tensor(NAME, (4,), 0, 2**40), n_tensors=1, data=bytes(16)),
    "an offset of -32": file(b"", tensor(NAME, (4,), 0, -32), n_tensors=1, data=bytes(16)),
    "an offset that is not aligned": file(b"", tensor(NAME, (4,), 0, 1), n_tensors=1, data=bytes(64)),
    "two tensors in one place": file(b"", tensor("a", (4,)) + tensor("b", (4,)), n_tensors=2, data=bytes(16)),
    "a name twice": file(b"", tensor("a", (4,)) * 2, n_tensors=2, data=bytes(16)),
    "a name of 10 MB": file(b"", tensor("x" * 10**7, (4,)), n_tensors=1, data=bytes(16)),
    "an empty name": file(b"", tensor("", (4,)), n_tensors=1, data=bytes(16)),
    "a name with control characters": file(b"", tensor(CONTROL, (4,)), n_tensors=1, data=bytes(16)),
    "a name that is not UTF-8": file(b"", tensor(b"\xff\xfe", (4,)), n_tensors=1, data=bytes(16)),
    "100,000 tensors": file(
        b"", b"".join(tensor(f"t{i}", (1,)) for i in range(100_000)), n_tensors=100_000, data=bytes(32)
    ),
    "an original shape that lies": file(
        key("comfy.gguf.orig_shape." + NAME, ARRAY, struct.pack("<IQ", I32, 2) + struct.pack("<ii", -1, 2**30)),
        tensor(NAME, (4, 4)),
        n_keys=1,
        n_tensors=1,
        data=bytes(64),
    ),
    "an original shape of texts": file(
        key("comfy.gguf.orig_shape." + NAME, TEXT, text("4,4")),
        tensor(NAME, (4, 4)),
        n_keys=1,
        n_tensors=1,
        data=bytes(64),
    ),
    "llama.cpp without heads": file(
        key("general.architecture", TEXT, text("t5encoder")) + key("t5encoder.attention.head_count", 4, bytes(4)),
        tensor("enc.blk.0.attn_q.weight", (4, 4)) + tensor("token_embd.weight", (4, 4), 0, 64),
        n_keys=2,
        n_tensors=2,
        data=bytes(128),
    ),
    "numbers that are not finite": file(
        b"", tensor("img_in.weight", (64, 4)) + tensor(NAME, (4, 12), 0, 1024), n_tensors=2, data=b"\xff" * 2048
    ),
    "a web page": b"<html></html>",
    "a safetensors file": struct.pack("<Q", 2) + b"{}",
    "empty": b"",
}


def inputs() -> Iterator[Hostile]:
    """Whole files, and files with bytes changed at random."""
    for name, data in FILES.items():
        yield Hostile(name, lambda place, data=data: _file(place, data))
    for k in repeats(24):
        yield Hostile(f"bytes changed at random {k}", lambda place, k=k: _file(place, _changed(k)))


def _file(place: Path, data: bytes) -> Action:
    path = place / "x.gguf"
    path.write_bytes(data)
    return used(path)


def _changed(k: int) -> bytes:
    random = drawn(f"gguf {k}")
    data = bytearray(FILES["llama.cpp without heads" if k % 2 else "an original shape that lies"])
    for _ in range(random.choice([1, 2, 5])):
        data[random.randrange(8, len(data))] = random.choice([0, 1, 127, 128, 255, random.randrange(256)])
    return bytes(data)
