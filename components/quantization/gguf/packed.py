"""A tensor that stays packed in blocks of bytes, and is decoded when its numbers are needed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from ....graph.errors import LoadError
from .blocks import decode
from .kinds import Kind

_AT_ONCE = 1 << 20
"""Numbers decoded at a time: a slice that fits the processor's cache, and not a whole layer in float32."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A quantized tensor of `shape`, as `blocks` of bytes (`n kind.bytes`, uint8).

    Rows can be split and joined without decoding, also by `torch.cat`, `torch.split` and `torch.chunk`, if no block
    crosses a boundary. So conversions of key layouts (a fused qkv) work on it as on a tensor.
    """

    kind: Kind
    blocks: Tensor
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """The packed bytes."""
        return self.blocks.nbytes

    def numel(self) -> int:
        """The number of its values."""
        return prod(self.shape)

    def to(self, device: str | torch.device) -> "Packed":
        """The tensor on another device."""
        return Packed(self.kind, self.blocks.to(device), self.shape)

    def reshape(self, *shape: int) -> "Packed":
        """The tensor in another shape. LoadError if the shape has another size."""
        if prod(shape) != self.numel():
            raise LoadError(f"A {self.kind} tensor of shape {list(self.shape)} cannot have the shape {list(shape)}.")
        return Packed(self.kind, self.blocks, shape)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The decoded tensor: computed in float32, then rounded to `dtype`. Needs memory for one more slice."""
        step = max(1, _AT_ONCE // self.kind.values)
        if len(self.blocks) <= step:
            return decode(self.kind, self.blocks).to(dtype).view(self.shape)
        out = torch.empty(self.numel(), dtype=dtype, device=self.blocks.device)
        for blocks, place in zip(self.blocks.split(step), out.split(step * self.kind.values), strict=True):
            place.copy_(decode(self.kind, blocks).flatten())
        return out.view(self.shape)

    def rows(self, index: Tensor) -> Tensor:
        """Some rows, decoded: float32, of the shape of `index` and of a row. Rows must be whole blocks."""
        width = prod(self.shape[1:])
        by_row = self.blocks.view(self.shape[0], width // self.kind.values, self.kind.bytes)
        picked = by_row[index.flatten()].flatten(0, 1)
        return decode(self.kind, picked).view(*index.shape, *self.shape[1:])

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> "tuple[Packed, ...]":
        """Split along the first dimension. LoadError if a block crosses a boundary."""
        if dim != 0:
            raise LoadError(f"A {self.kind} tensor can be split along its rows (dim 0) only, not along dim {dim}.")
        if isinstance(sizes, int):
            whole, rest = divmod(self.shape[0], sizes)
            sizes = [sizes] * whole + [rest] * bool(rest)
        width = prod(self.shape[1:])
        if any(size * width % self.kind.values for size in sizes) or sum(sizes) != self.shape[0]:
            raise LoadError(
                f"A {self.kind} tensor of shape {list(self.shape)} cannot be split into rows {list(sizes)}: its "
                f"blocks have {self.kind.values} numbers."
            )
        cuts = self.blocks.split([size * width // self.kind.values for size in sizes])
        return tuple(Packed(self.kind, cut, (size, *self.shape[1:])) for cut, size in zip(cuts, sizes, strict=True))

    def chunk(self, count: int, dim: int = 0) -> "tuple[Packed, ...]":
        """Split into `count` pieces of equal size; the last may be smaller. Like `torch.chunk`."""
        return self.split(-(-self.shape[0] // count), dim)

    def __getitem__(self, rows: slice) -> "Packed":
        """A range of rows: `packed[8:16]`."""
        start, stop, _ = rows.indices(self.shape[0])
        _, found, _ = self.split([start, stop - start, self.shape[0] - stop])
        return found

    @property
    def T(self) -> Tensor:  # noqa: N802  torch's name
        """The transposed matrix, decoded, since blocks are along rows."""
        return self.dequantize().T

    @staticmethod
    def cat(parts: "Iterable[Packed]", dim: int = 0) -> "Packed":
        """Join along the first dimension. LoadError for different types or row shapes."""
        parts = tuple(parts)
        if dim != 0 or len({(part.kind, part.shape[1:]) for part in parts}) != 1:
            shown = ", ".join(f"{part.kind} {list(part.shape)}" for part in parts)
            raise LoadError(f"Quantized tensors of one type and row length can be joined along dim 0 only: {shown}.")
        shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        return Packed(parts[0].kind, torch.cat([part.blocks for part in parts]), shape)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:  # any function of torch comes through here
        made = {torch.cat: cls.cat, torch.split: cls.split, torch.chunk: cls.chunk}.get(cast("Any", func))
        return NotImplemented if made is None else made(*args, **(kwargs or {}))
