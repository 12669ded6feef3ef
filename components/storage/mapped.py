"""Release memory pages of a mapped file while the file stays mapped."""

import ctypes
import mmap
import weakref
from functools import cache
from typing import Any

from torch import Tensor

_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows


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
