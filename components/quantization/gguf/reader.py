"""GGUF files, memory-mapped. The whole header is checked before a tensor is read.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ....graph.errors import LoadError
from ....graph.limits import AboveLimit, check_limit
from ...storage.faults import GGUF, fault_of
from ...storage.mapped import MappedFile, mark_mapped
from .kinds import KINDS, UNREAD, Kind
from .packed import Packed

MAGIC = b"GGUF"
ALIGNMENT = 32
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Metadata of image models: the shape of a tensor that is stored flat, since its rows are not whole blocks."""

_MOST_DIMENSIONS = 4  # GGML_MAX_DIMS
_LONGEST_NAME = 65535  # of a metadata key, by the format
_DEEPEST_ARRAY = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9

Value = Any
"""Metadata: a number, a bool, a text, or a list of those."""


@dataclass(frozen=True)
class GGUFTensor:
    """One tensor of a file, not read yet. `shape` is in torch's order."""

    file: "GGUFFile"
    name: str
    kind: Kind
    shape: tuple[int, ...]
    start: int
    """The offset of its bytes in the file."""

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        return self.kind.size(prod(self.shape))

    def read(self) -> Tensor | Packed:
        """A tensor if torch has the type, else the packed blocks. Both are memory-mapped."""
        self.file.mapped.check()
        data = self.file.data[self.start : self.start + self.nbytes]
        if self.kind.dtype is None:
            return Packed(self.kind, data.view(-1, self.kind.bytes), self.shape)
        if self.start % self.kind.bytes:  # torch needs an offset that is a multiple of the type's size
            data = data.clone()
        return data.view(self.kind.dtype).view(self.shape)


class GGUFFile:
    """A GGUF file: `metadata` by key, and `tensors` by name, which are read when needed.

    Raises:
        LoadError: a header that is truncated, has values out of range, or types that we do not read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.mapped = MappedFile.of(self.path)
            with self.path.open("rb") as file:
                header = _Header(self.path, file)
                self.metadata: Mapping[str, Value] = header.metadata()
                self.tensors: Mapping[str, GGUFTensor] = header.tensors(self, self.metadata)
        except OSError as error:
            raise LoadError(f"{self.path} cannot be read: {error}") from error

    @cached_property
    def data(self) -> Tensor:
        """The whole file as uint8, memory-mapped."""
        data = torch.from_file(str(self.path), shared=False, size=self.mapped.state[0], dtype=torch.uint8)
        mark_mapped(data, self.mapped)
        return data

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name: str) -> Any:  # a Tensor, or a Packed, which is split and joined like one
        """The tensor of that name; see `GGUFTensor.read`."""
        return self.tensors[name].read()

    def where(self, name: str) -> str:
        """The path of the file, for errors."""
        return str(self.path)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class _Header:
    """Reads the header. Every count is compared with the remaining bytes before memory is allocated."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = path.stat().st_size
        if self.size == 0:
            raise LoadError(fault_of(path, GGUF))
        self.at = 0
        if (magic := self._take(4, "the magic number")) != MAGIC:
            raise LoadError(fault_of(path, GGUF, f"it begins with {magic!r}, not with {MAGIC!r}"))
        version = self._number("I", "the version")
        if version not in (2, 3):
            big = " It was written for a big-endian machine." if version & 0xFFFF == 0 else ""
            raise LoadError(f"{path}: GGUF version {version} cannot be read, only 2 and 3.{big} Convert it again.")
        self.tensor_count = self._number("Q", "the number of tensors")
        self.key_count = self._number("Q", "the number of metadata keys")
        # The least bytes of a tensor (name, dimensions, type, offset) and of a key (name, type, value).
        self._check_room(self.tensor_count, 24, "tensors")
        self._check_room(self.key_count, 13, "metadata keys")
        self._check_limit("tensors", self.tensor_count)
        self._check_limit("tensors", self.key_count)
        self.texts = self.values = 0  # of all metadata

    def metadata(self) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for _ in range(self.key_count):
            key = self._text("a metadata key", _LONGEST_NAME)
            if key in found:
                raise self._wrong(f"the metadata key {key!r} occurs twice")
            found[key] = self._value(self._number("I", f"the type of {key}"), key)
        return found

    def tensors(self, owner: GGUFFile, metadata: Mapping[str, Value]) -> dict[str, GGUFTensor]:
        infos: dict[str, tuple[Kind, tuple[int, ...], int]] = {}
        for _ in range(self.tensor_count):
            name = self._text("the name of a tensor", _LONGEST_NAME)
            if name in infos:
                raise self._wrong(f"the tensor {name!r} occurs twice")
            infos[name] = self._info(name)
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            raise self._wrong(f"general.alignment needs to be a power of two, and is {alignment!r}")
        base = -(-self.at // alignment) * alignment
        found: dict[str, GGUFTensor] = {}
        for name, (kind, shape, offset) in infos.items():
            if offset % alignment:
                raise self._wrong(f"{name} begins at offset {offset}, which is not a multiple of {alignment}")
            shape = self._original(name, shape, metadata)
            found[name] = GGUFTensor(owner, name, kind, shape, base + offset)
            if (end := base + offset + found[name].nbytes) > self.size:
                raise self._wrong(f"{name} ends at byte {end}, and the file has {self.size}: it is truncated")
        before = 0
        for tensor in sorted(found.values(), key=lambda tensor: tensor.start):
            if tensor.start < before:
                raise self._wrong(f"{tensor.name} begins at byte {tensor.start}, inside the tensor before it")
            before = tensor.start + tensor.nbytes
        return found

    def _info(self, name: str) -> tuple[Kind, tuple[int, ...], int]:
        count = self._number("I", f"the dimensions of {name}")
        if count > _MOST_DIMENSIONS:
            raise self._wrong(f"{name} has {count} dimensions, more than {_MOST_DIMENSIONS}")
        shape = tuple(reversed([self._number("Q", f"a size of {name}") for _ in range(count)]))
        number = self._number("I", f"the type of {name}")
        offset = self._number("Q", f"the offset of {name}")
        if (kind := KINDS.get(number)) is None:
            known = ", ".join(str(kind) for kind in KINDS.values())
            raise LoadError(f"{self.path}: {name} has the type {UNREAD.get(number, number)}. Known types: {known}.")
        if any(size == 0 for size in shape) or prod(shape) > self.size * kind.values:
            raise self._wrong(f"{name} has the shape {list(shape)}, which is empty or larger than the file")
        if (shape[-1] if shape else 1) % kind.values:
            raise self._wrong(f"{name} has rows of {shape[-1:]} numbers, and blocks of {kind} have {kind.values}")
        return kind, shape, offset

    def _original(self, name: str, shape: tuple[int, ...], metadata: Mapping[str, Value]) -> tuple[int, ...]:
        stated = metadata.get(ORIGINAL_SHAPE + name)
        if stated is None:
            return shape
        sizes = tuple(stated) if isinstance(stated, list) else ()
        if not sizes or any(type(size) is not int or size < 1 for size in sizes) or prod(sizes) != prod(shape):
            raise self._wrong(f"{ORIGINAL_SHAPE}{name} is {stated!r}, and the tensor has the shape {list(shape)}")
        return sizes

    def _value(self, code: int, key: str, depth: int = 0) -> Value:
        if code == _STRING:
            return self._text(f"the value of {key}", self.size)
        if code == _ARRAY:
            inner = self._number("I", f"the type of the entries of {key}")
            count = self._number("Q", f"the length of {key}")
            if depth >= _DEEPEST_ARRAY:
                raise self._wrong(f"{key} is an array of {count} entries, {depth + 1} deep")
            self.values += count
            self._check_limit("header_numbers", self.values)
            if inner in (_STRING, _ARRAY):
                self._check_room(count, 8, f"entries of {key}")
                self.texts += count
                self._check_limit("header_texts", self.texts)
                return [self._value(inner, key, depth + 1) for _ in range(count)]
            return list(self._numbers(inner, count, key))
        return self._numbers(code, 1, key)[0]

    def _numbers(self, code: int, count: int, key: str) -> tuple[Value, ...]:
        if code not in _SCALARS:
            raise self._wrong(f"{key} has the unknown value type {code}")
        letter = "B" if code == _BOOL else _SCALARS[code]
        width = struct.calcsize(f"<{letter}")
        self._check_room(count, width, f"entries of {key}")
        values = struct.unpack(f"<{count}{letter}", self._take(count * width, f"the value of {key}"))
        if code != _BOOL:
            return values
        if any(value > 1 for value in values):
            raise self._wrong(f"{key} has the truth value {max(values)}")
        return tuple(map(bool, values))

    def _text(self, what: str, longest: int) -> str:
        length = self._number("Q", f"the length of {what}")
        if length > longest:
            raise self._wrong(f"{what} has {length} bytes, more than {longest}")
        try:
            return self._take(length, what).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._wrong(f"{what} is not text ({error.reason})") from error

    def _number(self, letter: str, what: str) -> int:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}"), what))[0]

    def _take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise self._wrong(f"{what} takes {count} bytes, and {self.size - self.at} are left: it is truncated")
        self._check_limit("header_bytes", self.at + count)
        data = self.file.read(count)
        if len(data) != count:
            raise self._wrong(f"{what} could not be read whole")
        self.at += count
        return data

    def _check_room(self, count: int, least: int, what: str) -> None:
        if count * least > self.size - self.at:
            raise self._wrong(f"{count} {what} are announced, and only {self.size - self.at} bytes are left")

    def _check_limit(self, name: str, found: int) -> None:
        try:
            check_limit(name, found)
        except AboveLimit as error:
            raise LoadError(f"{self.path}: its header {error}") from None

    def _wrong(self, what: str) -> LoadError:
        return LoadError(f"{self.path} is damaged: at byte {self.at}, {what}. Download it again.")
