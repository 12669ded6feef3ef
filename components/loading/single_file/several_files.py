"""Files that are a part of a model: shards, and TAESD, whose author publishes the encoder and the decoder apart."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ...storage.tensors import JoinedTensors, Shape, Tensors
from ..open_tensors import open_tensors
from .small_models import TAESD

_FIRST = {"encoder": ("0.weight", "1.conv.0.weight"), "decoder": ("1.weight", "3.conv.0.weight")}
"""The first tensors of each half, by the name of the half."""

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")
"""The end of a shard's name, before its format: "-00001-of-00002."."""


def shard_text(file: Path) -> str:
    """That a file is one of several, by its name; "" for another."""
    number = _SHARD.search(file.name)
    if number is None or int(number[2]) < 2:
        return ""
    return f"It is shard {int(number[1])} of {int(number[2])}. Pass the folder that has all of them."


def files_of(file: Path) -> tuple[Path, ...]:
    """The file; if its name has "encoder" or "decoder", also the file beside it whose name has the other word."""
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        before, found, after = file.name.rpartition(half)
        if found and (beside := file.with_name(f"{before}{other}{after}")).is_file():
            return file, beside
    return (file,)


class Halves(JoinedTensors):
    """The tensors of the two files of a TAESD. The names of each half have its prefix."""


def open_whole(files: Sequence[Path], *, allow_pickle: bool) -> Tensors:
    """The tensors of the first file. If it is a half of a TAESD and the second is the other half, those of both."""
    first = open_tensors(files[:1], allow_pickle=allow_pickle)
    if len(files) < 2 or (half := _half(first.shapes())) is None:
        return first
    second = open_tensors(files[1:], allow_pickle=allow_pickle)
    other = _half(second.shapes())
    if other in (None, half):
        return first
    return Halves([Prefixed(first, f"{TAESD}{half}."), Prefixed(second, f"{TAESD}{other}.")])


class Prefixed:
    """The tensors of a source with a prefix before their names."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix

    def shapes(self) -> Mapping[str, Shape]:
        """The shape of each tensor, by name."""
        return {f"{self._prefix}{name}": shape for name, shape in self._tensors.shapes().items()}

    def read(self, name: str) -> Tensor:
        """One tensor."""
        return self._tensors.read(name.removeprefix(self._prefix))

    def where(self, name: str) -> str:
        """The file of a tensor."""
        return self._tensors.where(name.removeprefix(self._prefix))


def _half(shapes: Mapping[str, Shape]) -> str | None:
    """The half of a TAESD that has these tensors; None if they are another model's."""
    return next((half for half, names in _FIRST.items() if all(name in shapes for name in names)), None)
