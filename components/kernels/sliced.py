"""Attention in slices: fewer scores at once, for kernels that keep them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .backend import AttentionBackend, AttentionInputs
from .torch_kernels import PLAIN

_BYTES = 4  # of a score: kernels that keep scores compute them in float32
Part = tuple[slice, slice, slice]
"""Rows, heads and queries."""


@dataclass(frozen=True)
class Sliced(AttentionBackend):
    """Attention of some rows, heads or queries after the other, so that their scores take less memory.

    It helps where the kernel keeps all scores: on Apple GPUs, and with `Math`. Rows and heads give the same numbers as
    all at once. Queries are sliced only where one head is too large, and differ by rounding.

    megabytes: of scores at once. kernel: computes each slice.

    Raises:
        ConfigError: a size that is not above zero, or a kernel that is none.
    """

    name: ClassVar[str] = "sliced"
    megabytes: float = 256
    kernel: AttentionBackend = PLAIN

    def __post_init__(self) -> None:
        if isinstance(self.megabytes, bool) or not self.megabytes > 0:
            raise ConfigError(f"Sliced: megabytes needs a number above 0. Got {self.megabytes!r}.")
        if not isinstance(self.kernel, AttentionBackend):  # pyright: ignore[reportUnnecessaryIsInstance]  not all code has types
            raise ConfigError(f"Sliced: kernel needs a backend, such as sf.attention.Math(). Got {self.kernel!r}.")

    def missing(self) -> str:
        """Why its kernel cannot run on this machine; "" if it can."""
        return self.kernel.missing()

    def unfit_device(self, device: torch.device) -> str:
        """Why its kernel cannot run on a device; "" if it can."""
        return self.kernel.unfit_device(device)

    def refusal(self, inputs: AttentionInputs) -> str:
        """Why its kernel cannot; "" if it can."""
        return self.kernel.refusal(inputs)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute attention."""
        rows, heads, queries, _ = q.shape
        parts = list(_parts(rows, heads, queries, max(int(self.megabytes * 2**20) // (k.shape[2] * _BYTES), 1)))
        if len(parts) == 1:
            return self.kernel.attend(q, k, v, mask)
        out = q.new_empty(rows, queries, heads, v.shape[3]).transpose(1, 2)  # as kernels lay it out
        for row, head, query in parts:
            own = None if mask is None else _part_of(mask, row, head, query)
            out[row, head, query] = self.kernel.attend(q[row, head, query], k[row, head], v[row, head], own)
        return out


def _parts(rows: int, heads: int, queries: int, most: int) -> Iterator[Part]:
    """Slices of at most so many queries of rows and heads: of whole rows, else of whole heads, else of queries."""
    row = max(most // (heads * queries), 1)
    head = max(most // queries, 1) if row == 1 else heads
    query = most if head == 1 else queries
    for r in range(0, rows, row):
        for h in range(0, heads, head):
            for n in range(0, queries, query):
                yield slice(r, r + row), slice(h, h + head), slice(n, n + query)


def _part_of(mask: Tensor, row: slice, head: slice, query: slice) -> Tensor:
    """A part of a mask whose shape expands to `b heads n m`."""
    mask = mask[(None,) * (4 - mask.ndim)]
    whole = slice(None)  # of an axis that the mask has once for all
    sizes = zip((row, head, query), mask.shape[:3], strict=True)
    return mask[tuple(part if size > 1 else whole for part, size in sizes)]
