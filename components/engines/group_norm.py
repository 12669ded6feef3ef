"""GroupNorm and SiLU in two kernels of Triton, which read the input twice and write the output once.

The first one computes mean and squared deviations of parts of a group, in float32. The second one joins these parts
(Chan et al. 1979, equations 1.5), and applies norm, scale, shift and SiLU.
"""

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_PART = 4096  # numbers of a group that one program of a kernel reads

tl: Any = None
"""`triton.language`: Triton looks for it among the globals of a kernel."""


class _Kernels(NamedTuple):
    """The two kernels, compiled at their first launch. power: the next power of two."""

    moments: Any
    apply: Any
    power: Any


@cache
def _kernels() -> _Kernels:
    global tl
    triton: Any = import_module("triton")
    tl = import_module("triton.language")
    return _Kernels(triton.jit(_moments), triton.jit(_apply), triton.next_power_of_2)


def is_installed() -> bool:
    """Whether Triton is there. Torch installs it with CUDA on Linux."""
    return find_spec("triton") is not None


def group_norm_silu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """SiLU of the group norm of `b c h w`, in the dtype and memory format of `x` (Wu & He 2018, equation 1).

    Statistics and the formula are computed in float32.

    Args:
        x: of one of `DTYPES`, contiguous or with channels last. Another one is copied first.
        groups: the number of groups, which divides the channels.
        weight: the scales, `c`.
        bias: the shifts, `c`.
        eps: is added to the variances.
    """
    kernels = _kernels()
    rows, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    x = x if last else x.contiguous()
    out, each = torch.empty_like(x), channels // groups
    size = each * pixels
    parts = -(-size // _PART)
    found = torch.empty(rows * groups, parts, 2, device=x.device, dtype=torch.float32)
    grid = (rows * groups, parts)
    block = min(_PART, kernels.power(size))
    kernels.moments[grid](x, found, channels, pixels, groups, each, size, parts, last=last, block=block)
    kernels.apply[grid](x, out, found, weight, bias, channels, pixels, groups, each, size, parts, eps,
                        last=last, block=block, joined=kernels.power(parts))  # fmt: skip
    return out


# ------------------------------------------------------------------------------------------------------------- kernels
class constexpr:  # noqa: N801  Triton looks for this name
    """A constant of a kernel. Triton reads the name of this class, and compiles a kernel for each value."""


def _moments(  # pragma: no cover  Triton compiles it
    x: Any, found: Any, channels: Any, pixels: Any, groups: Any, each: Any, size: Any, parts: Any,
    last: constexpr, block: constexpr,
) -> None:  # fmt: skip
    row_group, part = tl.program_id(0), tl.program_id(1)
    row, group = (row_group // groups).to(tl.int64), row_group % groups
    index = part * block + tl.arange(0, block)
    inside = index < size
    if last:
        place = row * channels * pixels + (index // each).to(tl.int64) * channels + group * each + index % each
    else:
        place = (row * channels + group * each) * pixels + index
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    count = tl.minimum(size - part * block, block)
    mean = tl.sum(value, 0) / count
    centered = tl.where(inside, value - mean, 0.0)
    base = found + (row_group * parts + part) * 2
    tl.store(base, mean)
    tl.store(base + 1, tl.sum(centered * centered, 0))


def _apply(  # pragma: no cover  Triton compiles it
    x: Any, out: Any, found: Any, weight: Any, bias: Any, channels: Any, pixels: Any, groups: Any, each: Any, size: Any,
    parts: Any, eps: Any, last: constexpr, block: constexpr, joined: constexpr,
) -> None:  # fmt: skip
    row_group, part = tl.program_id(0), tl.program_id(1)
    row, group = (row_group // groups).to(tl.int64), row_group % groups
    each_part = tl.arange(0, joined)
    known = each_part < parts
    base = found + row_group * parts * 2 + each_part * 2
    means = tl.load(base, mask=known, other=0.0)
    squares = tl.load(base + 1, mask=known, other=0.0)
    counts = tl.where(known, tl.minimum(size - each_part * block, block), 0).to(tl.float32)
    mean = tl.sum(means * counts, 0) / size
    offset = means - mean
    variance = (tl.sum(squares, 0) + tl.sum(counts * offset * offset, 0)) / size
    scale = 1.0 / tl.sqrt(variance + eps)
    index = part * block + tl.arange(0, block)
    inside = index < size
    if last:
        channel = group * each + index % each
        place = row * channels * pixels + (index // each).to(tl.int64) * channels + channel
    else:
        channel = group * each + index // pixels
        place = (row * channels + group * each) * pixels + index
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    weights = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shifts = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    normed = (value - mean) * scale * weights + shifts
    result = normed / (1.0 + tl.exp(-normed))
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)
