"""Named tensors in files, read one at a time, whatever the files are."""

import pickle
import warnings
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...graph.errors import LoadError
from .mapped import release_pages_after

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
Shape = tuple[int, ...]


class Tensors(Protocol):
    """What weights are read from. `shapes` costs no tensor; `where` names the file of one, for errors."""

    def shapes(self) -> Mapping[str, Shape]: ...
    def read(self, name: str) -> Tensor: ...
    def where(self, name: str) -> str: ...


class SafetensorFiles:
    """The tensors of safetensors files, memory-mapped. LoadError for a file that is damaged.

    What is read is the mapping itself, and its pages go when nobody has it any more.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._of: dict[str, tuple[Path, Any]] = {}
        self._shapes: dict[str, Shape] = {}
        self._read: dict[str, weakref.finalize[..., Any] | None] = {}
        for file in files:
            with _told(file):
                reader: Any = safe_open(file, framework="pt", device="cpu")  # its reader is untyped
                for name in reader.keys():  # noqa: SIM118  no mapping
                    self._of[str(name)] = (file, reader)
                    self._shapes[str(name)] = tuple(reader.get_slice(name).get_shape())

    def shapes(self) -> Mapping[str, Shape]:
        return self._shapes

    def read(self, name: str) -> Tensor:
        file, reader = self._of[name]
        with _told(file):
            tensor = cast("Tensor", reader.get_tensor(name))
        if name not in self._read:
            self._read[name] = release_pages_after(tensor, reader)
        elif (first := self._read[name]) is not None:
            first.detach()  # the same bytes for two: they stay as long as the file is mapped
        return tensor

    def where(self, name: str) -> str:
        return str(self._of[name][0])

    def metadata(self) -> dict[str, str]:
        """The metadata of all files, as their headers have them."""
        readers = {id(reader): reader for _, reader in self._of.values()}.values()
        return {key: value for reader in readers for key, value in (reader.metadata() or {}).items()}


class PickledTensors:
    """The tensors of a `.ckpt`, `.pt` or `.bin` file, read by torch's unpickler of plain tensors, which runs no code.

    The file is mapped where its form allows it. LoadError for anything but tensors in dicts.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        mapped = zipfile.is_zipfile(self.file)
        if mapped:
            _refuse_bombs(self.file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickle protocols: what cannot be read is an error here
                data: object = torch.load(self.file, map_location="cpu", weights_only=True, mmap=mapped)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
            said = str(error).strip().split("\n")[0]
            raise LoadError(
                f"{self.file}: cannot be read as plain tensors ({said}). It is damaged, or it holds code, which is not "
                "run. Take a .safetensors file."
            ) from None
        while isinstance(data, dict) and "state_dict" in data:
            data = cast("dict[str, object]", data)["state_dict"]
        if not isinstance(data, dict):
            raise LoadError(f"{self.file}: holds {type(data).__name__}, and a dict of tensors was wanted.")
        named = cast("dict[object, object]", data)
        return {str(name): value for name, value in named.items() if isinstance(value, Tensor)}

    def shapes(self) -> Mapping[str, Shape]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def where(self, name: str) -> str:
        return str(self.file)


class JoinedTensors:
    """The tensors of several sources as one."""

    def __init__(self, parts: Sequence[Tensors]) -> None:
        self._of = {name: part for part in parts for name in part.shapes()}

    def shapes(self) -> Mapping[str, Shape]:
        return {name: part.shapes()[name] for name, part in self._of.items()}

    def read(self, name: str) -> Tensor:
        return self._of[name].read(name)

    def where(self, name: str) -> str:
        return self._of[name].where(name)


def _refuse_bombs(file: Path) -> None:
    """torch stores tensors as they are; a compressed member is a small file that fills the memory."""
    try:
        with zipfile.ZipFile(file) as archive:
            packed = [m.filename for m in archive.infolist() if m.compress_type != zipfile.ZIP_STORED]
    except (zipfile.BadZipFile, OSError) as error:
        raise LoadError(f"{file}: is damaged ({error}). Download it again.") from None
    if packed:
        raise LoadError(f"{file}: {packed[0]} in it is compressed, which torch never writes. It is not read.")


@contextmanager
def _told(file: Path):
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{file} is damaged or no safetensors file: {error}. Download it again.") from error
