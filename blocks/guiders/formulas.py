"""The arithmetic of guidance, on predictions (rows, channels, height, width)."""

from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor

from ...components.types import Number
from ...graph.errors import UnfitValue
from ...registry import counted

Scale = Number | Annotated[tuple[Number, ...], MinLen(1)]
"""One number, or one for each picture. With fewer numbers than pictures, each number serves as many in a row."""


def is_neutral(scale: Scale, original: bool = False) -> bool:
    """Whether guidance of this scale returns the positive prediction: 1, or 0 in the original formulation."""
    neutral = 0.0 if original else 1.0
    return scale == neutral or (isinstance(scale, tuple) and all(s == neutral for s in scale))


def per_row(scale: Scale, like: Tensor) -> float | Tensor:
    """The scale in a shape that multiplies `like`, whose first dimension is rows.

    Raises:
        UnfitValue: the number of rows is no multiple of the number of scales.
    """
    if isinstance(scale, int | float):
        return scale
    rows = len(like)
    if not scale or rows % len(scale):
        raise UnfitValue(
            f"There are {counted(len(scale), 'guidance scale')} for {counted(rows, 'picture')}. "
            "Give one, or one for each."
        )
    each = torch.tensor(scale, dtype=like.dtype).repeat_interleave(rows // len(scale))
    return each.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, non_blocking=True)


def extrapolated(positive: Tensor, other: Tensor, scale: Scale, original: bool = False) -> Tensor:
    """other + scale (positive - other); in the original formulation positive + scale (positive - other)."""
    return (positive if original else other) + per_row(scale, positive) * (positive - other)


def extrapolated_by(positive: Tensor, shift: Tensor, scale: Scale, original: bool = False) -> Tensor:
    """positive + (scale - 1) shift; in the original formulation positive + scale shift.

    With shift = positive - other this is `extrapolated`. With any other shift it is continuous at the neutral scale.
    """
    return positive + (per_row(scale, positive) - (0.0 if original else 1.0)) * shift


def rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """The guided prediction with its spread brought back to that of the positive one, as far as `amount` (0 to 1).

    Lin et al. 2023, equations 15 and 16; the spread is the standard deviation of a row.
    """
    if not amount:
        return guided
    dims = list(range(1, positive.ndim))
    whole = guided * (positive.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return amount * whole + (1 - amount) * guided


def precise(x: Tensor) -> Tensor:
    """In double precision where the device has it: a projection is a difference of large numbers."""
    return x.double() if x.device.type not in ("mps", "npu") else x.float()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row of `a` with that of `b`, in a shape that multiplies them."""
    return (a * b).sum(list(range(1, a.ndim)), keepdim=True)


def parallel_part(x: Tensor, along: Tensor, dims: tuple[int, ...] | None = None, *, double: bool = True) -> Tensor:
    """The projection of `x` onto `along`, over all dimensions but the rows, or over `dims`."""
    over = list(range(1, x.ndim)) if dims is None else list(dims)
    a, b = (precise(x), precise(along)) if double else (x, along)
    squared = (b * b).sum(over, keepdim=True).clamp_min(1e-24)
    return ((a * b).sum(over, keepdim=True) / squared * b).to(x.dtype)
