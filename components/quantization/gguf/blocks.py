"""Blocks of GGUF tensors as float32: the formulas of ggml-quants.c, bit for bit.

A block is a row of bytes. All formats have half-precision scales, small integers packed in runs, and some have
scales of groups, which are small integers too. `_unpack` reads all of these packings.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from .kinds import Kind

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The levels of IQ4_NL and IQ4_XS (kvalues_iq4nl)."""


def decode(kind: Kind, blocks: Tensor) -> Tensor:
    """Decode whole blocks.

    Args:
        kind: a type without a dtype of torch.
        blocks: uint8, `n kind.bytes`, on any device.

    Returns:
        float32, `n kind.values`.
    """
    return _DECODERS[kind.name](blocks)


def _unpack(data: Tensor, bits: int, run: int) -> Tensor:
    """Small integers from bytes `n k`: `n (k * 8 / bits)`.

    Each `run` bytes have 8 / bits runs of `run` integers, those in the lowest bits first.
    """
    shifts = _shifts(bits, data.device)  # 8/bits 1
    spread = data.reshape(len(data), -1, 1, run) >> shifts
    if bits < 8:
        spread &= (1 << bits) - 1
    return spread.flatten(1)


@cache
def _shifts(bits: int, device: torch.device) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8, device=device)[:, None]


@cache
def _levels(device: torch.device) -> Tensor:
    return torch.tensor(_IQ4, dtype=torch.float32, device=device)


def _leveled(data: Tensor) -> Tensor:
    """The levels of IQ4 for bytes `n k`: float32, `n 2k`."""
    places = _unpack(data, 4, 16)
    # Takes a third of the time of indexing.
    return _levels(data.device).index_select(0, places.flatten().int()).view(places.shape)


def _half(data: Tensor) -> Tensor:
    """Half-precision numbers from bytes `n 2k`: float32, `n k`."""
    return data.contiguous().view(torch.float16).float()


def _signed(data: Tensor, middle: int) -> Tensor:
    """Small integers around zero, as float32."""
    return (data.view(torch.int8) - middle).float()


def _grouped(values: Tensor, groups: int) -> Tensor:
    return values.view(len(values), groups, -1)


def _q4_0(blocks: Tensor) -> Tensor:
    d, qs = blocks.split([2, 16], dim=1)
    return _half(d) * _signed(_unpack(qs, 4, 16), 8)


def _q4_1(blocks: Tensor) -> Tensor:
    d, m, qs = blocks.split([2, 2, 16], dim=1)
    return _half(d) * _unpack(qs, 4, 16).float() + _half(m)


def _q5(high: Tensor, low: Tensor) -> Tensor:
    """Integers of five bits. The fifth bits of 32 integers are stored together."""
    return _unpack(low, 4, 16) | (_unpack(high, 1, 1) << 4)


def _q5_0(blocks: Tensor) -> Tensor:
    d, qh, qs = blocks.split([2, 4, 16], dim=1)
    return _half(d) * _signed(_q5(qh, qs), 16)


def _q5_1(blocks: Tensor) -> Tensor:
    d, m, qh, qs = blocks.split([2, 2, 4, 16], dim=1)
    return _half(d) * _q5(qh, qs).float() + _half(m)


def _q8_0(blocks: Tensor) -> Tensor:
    d, qs = blocks.split([2, 32], dim=1)
    return _half(d) * qs.view(torch.int8).float()


def _q2_k(blocks: Tensor) -> Tensor:
    scales, qs, d, dmin = blocks.split([16, 64, 2, 2], dim=1)
    scale = _half(d) * (scales & 15).float()  # n 16
    least = _half(dmin) * (scales >> 4).float()
    q = _grouped(_unpack(qs, 2, 32).float(), 16)
    return (scale[..., None] * q - least[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    hmask, qs, scales, d = blocks.split([32, 64, 12, 2], dim=1)
    low, high = scales.split([8, 4], dim=1)
    scale = _half(d) * _signed(_unpack(low, 4, 8) | (_unpack(high, 2, 4) << 4), 32)  # n 16
    # The third bit is stored inverted: if it is not set, four is subtracted.
    q = _signed(_unpack(qs, 2, 32) | (_unpack(hmask, 1, 32) << 2), 4)
    return (scale[..., None] * _grouped(q, 16)).flatten(1)


def _scale_and_least(blocks: Tensor, d: Tensor, dmin: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima of eight groups from twelve bytes of six-bit numbers: both float32, `n 8 1`."""
    first, second, rest = blocks.split([4, 4, 4], dim=1)
    scale = torch.cat([first & 63, (rest & 15) | ((first >> 2) & 48)], dim=1)
    least = torch.cat([second & 63, (rest >> 4) | ((second >> 2) & 48)], dim=1)
    return (_half(d) * scale.float())[..., None], (_half(dmin) * least.float())[..., None]


def _q4_k(blocks: Tensor) -> Tensor:
    d, dmin, scales, qs = blocks.split([2, 2, 12, 128], dim=1)
    scale, least = _scale_and_least(scales, d, dmin)
    return (scale * _grouped(_unpack(qs, 4, 32).float(), 8) - least).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    d, dmin, scales, qh, qs = blocks.split([2, 2, 12, 32, 128], dim=1)
    scale, least = _scale_and_least(scales, d, dmin)
    q = _unpack(qs, 4, 32) | (_unpack(qh, 1, 32) << 4)
    return (scale * _grouped(q.float(), 8) - least).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    ql, qh, scales, d = blocks.split([128, 64, 16, 2], dim=1)
    scale = _half(d) * scales.view(torch.int8).float()  # n 16
    q = _signed(_unpack(ql, 4, 64) | (_unpack(qh, 2, 32) << 4), 32)
    return (scale[..., None] * _grouped(q, 16)).flatten(1)


def _iq4_nl(blocks: Tensor) -> Tensor:
    d, qs = blocks.split([2, 16], dim=1)
    return _half(d) * _leveled(qs)


def _iq4_xs(blocks: Tensor) -> Tensor:
    d, high, low, qs = blocks.split([2, 2, 4, 128], dim=1)
    scale = _half(d) * _signed(_unpack(low, 4, 1) | (_unpack(high, 2, 1) << 4), 32)  # n 8
    return (scale[..., None] * _grouped(_leveled(qs), 8)).flatten(1)


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
