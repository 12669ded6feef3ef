"""Giving mapped memory back while the file stays mapped."""

import ctypes
import mmap
import weakref
from functools import cache
from typing import Any

from torch import Tensor

_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows


def release_pages_after(tensor: Tensor, mapping: object) -> "weakref.finalize[..., Any] | None":
    """When nobody has the storage of a mapped tensor any more, give its pages back: a tensor that was cast or moved
    then takes no memory twice. Pages it shares with its neighbours stay.

    `mapping` is what keeps the file mapped, and lives until then. Gives the finalizer, to detach where the same bytes
    are handed out again: pages that were written to would lose it. None where this system cannot do it.
    """
    advise = _madvise()
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if advise is None or length <= 0:
        return None

    def give_back(mapping: object) -> None:
        advise(begin, length, _DONTNEED)  # only advice: where it fails the pages go with the mapping

    found = weakref.finalize(tensor.untyped_storage(), give_back, mapping)
    found.atexit = False
    return found


@cache
def _madvise() -> Any:  # a C function, which ctypes cannot type
    """The C library's own: that of `mmap` serves Python's mappings only, and each of those keeps a file open."""
    if _DONTNEED is None:
        return None
    try:
        found = ctypes.CDLL(None).madvise
    except (AttributeError, OSError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return found
