"""Tensors in files, by name, read one at a time."""

import os
import re
import warnings
import weakref
import zipfile
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...graph.errors import LoadError
from ...graph.json_text import decoded, parse
from ...graph.limits import AboveLimit, check_limit
from .faults import PICKLE, SAFETENSORS, fault_of
from .mapped import MappedFile, mark_mapped, release_pages_after

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_NESTED = 4
"""The greatest depth of a `state_dict` inside others. A dict of a file may hold itself."""
_HALVES = "image_proj", "ip_adapter"
"""The dicts of an IP-Adapter's file."""
_GLOBAL = re.compile(r"GLOBAL (\w+(?:\.\w+)*)")
"""The name of a class or function that torch's reader does not import, in its error."""
_CLASSES = Lock()
"""torch's list of classes that may be read is one for the process."""
Shape = tuple[int, ...]


class Tensors(Protocol):
    """A source of weights."""

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name. Reads no tensor."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor. LoadError if the file is damaged."""
        ...

    def where(self, name: str) -> str:
        """The file of a tensor, for errors."""
        ...


class SafetensorFiles:
    """The tensors of safetensors files, memory-mapped. LoadError for a damaged file.

    Tensors are views of the mapping. Their pages are released when the last reference to them ends.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._of: dict[str, tuple[MappedFile, Any]] = {}
        self._shapes: dict[str, Shape] = {}
        self._read: dict[str, weakref.finalize[..., Any] | None] = {}
        for file in files:
            _check_header(file)
            with reading_safetensors(file):
                mapped = MappedFile.of(file)
                reader: Any = safe_open(file, framework="pt", device="cpu")  # its reader is untyped
                _check_names(file, reader.keys())
                for name in reader.keys():  # noqa: SIM118  no mapping
                    self._of[str(name)] = (mapped, reader)
                    self._shapes[str(name)] = tuple(reader.get_slice(name).get_shape())
            _check_sides(file, self._shapes.values())

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return self._shapes

    def read(self, name: str) -> Tensor:
        """One tensor."""
        file, reader = self._of[name]
        file.check()
        with reading_safetensors(file.path):
            tensor = cast("Tensor", reader.get_tensor(name))
        mark_mapped(tensor, file)
        if name not in self._read:
            self._read[name] = release_pages_after(tensor, reader)
        elif (first := self._read[name]) is not None:
            first.detach()  # two tensors over the same bytes: the pages stay while the file is mapped
        return tensor

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return str(self._of[name][0].path)

    def metadata(self) -> dict[str, str]:
        """The metadata of all files, from their headers."""
        readers = {id(reader): reader for _, reader in self._of.values()}.values()
        return {key: value for reader in readers for key, value in (reader.metadata() or {}).items()}


class PickledTensors:
    """The tensors of a `.ckpt`, `.pt` or `.bin` file, by torch's `weights_only` reader, which runs no code.

    The file is memory-mapped if its format allows it. LoadError for anything but tensors in dicts.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        data = read_pickle(self.file)
        for _ in range(_NESTED):
            if isinstance(data, dict) and "state_dict" in data:
                data = cast("dict[str, object]", data)["state_dict"]
        if not isinstance(data, dict):
            raise LoadError(f"{self.file}: needs a dict of tensors, got {type(data).__name__}.")
        named = _joined_halves(cast("dict[object, object]", data))
        found = {str(name): value for name, value in named.items() if isinstance(value, Tensor)}
        if empty := next((name for name, tensor in found.items() if tensor.is_meta), None):
            raise LoadError(f"{self.file}: {empty} has no values (meta device). Save it with its values.")
        for name, tensor in found.items():
            check_stored(self.file, name, tensor)
        return found

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._tensors[name]

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return str(self.file)


def _joined_halves(named: dict[object, object]) -> Mapping[object, object]:
    """The tensors of an IP-Adapter by the names of its safetensors files: a pickled one has a dict for each half."""
    halves = {half: named.get(half) for half in _HALVES}
    if not all(isinstance(half, dict) for half in halves.values()):
        return named
    return {f"{half}.{name}": tensor for half, tensors in halves.items()
            for name, tensor in cast("dict[object, object]", tensors).items()}  # fmt: skip


def read_pickle(file: Path, classes: Sequence[type] = ()) -> object:
    """Read a `.ckpt`, `.pt` or `.bin` file with torch's `weights_only` reader, which runs no code.

    The file is memory-mapped if its format allows it.

    Args:
        file: the file.
        classes: of torch, whose objects are read too. Their attributes are what the file says, so that none of their
            methods may be called.

    Raises:
        LoadError: it is damaged, or has objects of other classes.
    """
    mapped = zipfile.is_zipfile(file)
    if mapped:
        _refuse_compressed(file)
    try:
        with _CLASSES, warnings.catch_warnings(), torch.serialization.safe_globals(list(classes)):
            warnings.simplefilter("ignore")  # of old pickle protocols; an unreadable file is an error below
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch's reader lets any exception through that a damaged file causes
        if found := _GLOBAL.search(str(error)):
            raise LoadError(
                f"{file}: cannot be read as plain tensors, since it also has objects of {found[1]}, whose "
                "code is not run. Use a .safetensors file, or save its tensors alone with the program that made it."
            ) from None
        raise LoadError(fault_of(file, PICKLE)) from None


def check_stored(file: Path, name: str, tensor: Tensor) -> None:
    """Refuse a tensor of a pickle with more numbers than the file has: a stride of 0 repeats them."""
    if tensor.layout == torch.strided and tensor.nbytes > max(4096, 8 * tensor.untyped_storage().nbytes()):
        raise LoadError(f"{file}: {name} has more numbers than the file. Save it with .contiguous().")


class JoinedTensors:
    """The tensors of several sources as one."""

    def __init__(self, parts: Sequence[Tensors]) -> None:
        self._of = {name: part for part in parts for name in part.shapes()}

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return {name: part.shapes()[name] for name, part in self._of.items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._of[name].read(name)

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return self._of[name].where(name)


def _check_header(file: Path) -> None:
    """Refuse a safetensors file with a header that is larger, or has more tensors or dimensions, than any has."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > os.fstat(stream.fileno()).st_size - 8:
                return  # its reader says what is wrong
            check_limit("header_bytes", length)
            header = stream.read(length)
        check_limit("tensors", header.count(b'"data_offsets"'))
        check_limit("header_texts", header.count(b'":'))
        check_limit("header_numbers", header.count(b","))
    except OSError:
        return  # its reader says what is wrong
    except AboveLimit as error:
        raise LoadError(f"{file}: its header {error}") from None


def _check_names(file: Path, names: Collection[str]) -> None:
    try:
        check_limit("tensor_letters", max(map(len, names), default=0))
    except AboveLimit as error:
        raise LoadError(f"{file}: its header {error}") from None


def _check_sides(file: Path, shapes: Iterable[Shape]) -> None:
    try:
        check_limit("dimensions", max(map(len, shapes), default=0))
    except AboveLimit as error:
        raise LoadError(f"{file}: a tensor {error}") from None


def json_in(tensor: Tensor) -> Any:  # JSON values
    """The JSON whose bytes are the numbers of a tensor. ValueError if it is none, or too large."""
    check_limit("config_bytes", tensor.numel())
    return parse(decoded(tensor.flatten().to(torch.uint8).numpy().tobytes().rstrip(b"\0")))


def _refuse_compressed(file: Path) -> None:
    """Refuse a compressed file, which is small and may fill the memory. torch stores tensors uncompressed."""
    try:
        with zipfile.ZipFile(file) as archive:
            compressed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError) as error:
        raise LoadError(f"{file}: is damaged ({error}). Download it again.") from None
    if compressed:
        raise LoadError(f"{file}: {compressed[0]} in it is compressed, which torch never writes. It is not read.")


@contextmanager
def reading_safetensors(file: Path) -> Generator[None]:
    """Raise LoadError with what is wrong with a file, if its reader refuses it."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise LoadError(fault_of(file, SAFETENSORS, error)) from error
