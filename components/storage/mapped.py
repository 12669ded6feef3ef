"""Tensors over mapped files: their pages are released early, and a file that changes meanwhile is found."""

import ctypes
import mmap
import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from ...graph.errors import LoadError

_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows


@dataclass(frozen=True)
class MappedFile:
    """A file as it was when it was opened. A program that writes into it changes the tensors that are mapped from it,
    and one that cuts it makes the next read of them end the process (SIGBUS)."""

    path: Path
    file: tuple[int, int]
    """Device and inode."""
    state: tuple[int, int]
    """Size, and the time of the last change in nanoseconds."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is now. OSError if there is none."""
        return cls(path, *_identity(path))

    @property
    def unchanged(self) -> bool:
        """Whether nothing was written to the file since it was opened.

        A file that was removed or replaced by another of its name is unchanged: what is mapped stays as it was.
        """
        try:
            file, state = _identity(self.path)
        except OSError:
            return True
        return file != self.file or state == self.state

    def check(self) -> None:
        """Raise LoadError if something was written to the file since it was opened."""
        if not self.unchanged:
            raise LoadError(f"{self.path}: has changed since it was opened. Load it again when it is whole.")


def _identity(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    status = os.stat(path)
    return (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)


_files: "weakref.WeakKeyDictionary[Any, MappedFile]" = weakref.WeakKeyDictionary()  # by storage of a mapped tensor


def mark_mapped(tensor: Tensor, file: MappedFile) -> None:
    """Remember from which file the storage of a tensor is mapped."""
    _files[tensor.untyped_storage()] = file


def mapped_files(component: object) -> tuple[MappedFile, ...]:
    """The files from which tensors of a component are still mapped; none for tensors that were cast or moved."""
    if not isinstance(component, nn.Module):
        return ()
    tensors: Iterable[Tensor] = (*component.parameters(), *component.buffers())
    found = (_files.get(t.untyped_storage()) for t in tensors if t.device.type == "cpu")
    return tuple(dict.fromkeys(file for file in found if file is not None))


def release_pages_after(tensor: Tensor, mapping: object) -> "weakref.finalize[..., Any] | None":
    """Release the pages of a mapped tensor when its storage is freed.

    A tensor that was cast or moved then does not take memory twice. Pages that it shares with other tensors stay.

    Args:
        tensor: a tensor over mapped memory.
        mapping: the object that keeps the file mapped. It lives as long as the storage.

    Returns:
        The finalizer; None where the system cannot release pages. Detach it before the same bytes are returned a second
        time: pages that were written to would lose their values.
    """
    advise = _madvise()
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if advise is None or length <= 0:
        return None

    def release(mapping: object) -> None:
        advise(begin, length, _DONTNEED)  # advice only: if it fails, the pages are freed with the mapping

    finalizer = weakref.finalize(tensor.untyped_storage(), release, mapping)
    finalizer.atexit = False
    return finalizer


@cache
def _madvise() -> Any:  # a C function, which ctypes cannot type
    """madvise of the C library: that of `mmap` works on Python's mappings only, and each of those keeps a file open."""
    if _DONTNEED is None:
        return None
    try:
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return madvise
