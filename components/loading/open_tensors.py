"""Weight files of any format as named tensors."""

from collections.abc import Sequence
from pathlib import Path

from ...graph.errors import LoadError
from ..quantization.gguf.reader import GGUFFile
from ..storage.faults import PICKLE, refuse_renamed
from ..storage.tensors import PICKLES, JoinedTensors, PickledTensors, SafetensorFiles, Tensors


def open_tensors(files: Sequence[Path], *, allow_pickle: bool = False) -> Tensors:
    """Open weight files by the ends of their names.

    Packed tensors of a GGUF file are read as `Packed`, which is split and joined like a tensor.

    Raises:
        LoadError: a damaged file, or a pickle without `allow_pickle`.
    """
    if all(file.name.endswith(".gguf") for file in files):
        return JoinedTensors([GGUFFile(file) for file in files])
    if not any(file.name.endswith(PICKLES) for file in files):
        return SafetensorFiles(files)
    for file in files:
        check_pickle(file, allow_pickle)
    return JoinedTensors([PickledTensors(file) for file in files])


def check_pickle(file: Path, allow_pickle: bool) -> None:
    """Raise LoadError for a pickle without `allow_pickle`, and for a file of another kind."""
    refuse_renamed(file, PICKLE)
    if not allow_pickle:
        raise LoadError(
            f"{file}: is a pickle, which can have code, and is not read by default. Use a .safetensors file, or "
            "pass allow_pickle=True: torch then reads plain tensors from it and runs no code."
        )
