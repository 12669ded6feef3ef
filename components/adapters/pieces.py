"""Patches of a fused matrix as patches of our layers, and back. Exact: factors are copied and split, never computed."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .names import Target
from .patches import Full, LowRank, Patch
from .placing import Placed
from .weight_patches import Magnitude

_SWAPPED = Target((), "halves swapped")


def split(item: Placed, sizes: Sequence[int]) -> list[Patch] | None:
    """The patches of the layers that hold the rows of a matrix; None for kinds whose rows do not split.

    Args:
        item: the patch, and the matrix.
        sizes: the number of rows of each layer.
    """
    patch, how = item.patch, item.target.how
    plain = how in ("", "1x1")
    if plain and len(sizes) == 1:
        return [patch]
    if how == "transposed":
        return [_transposed(patch)] if isinstance(patch, LowRank) and patch.middle is None else None
    match patch:
        case LowRank():
            return [*_low_rank(patch, sizes, swap=not plain)]
        case Full():
            whole = _rows(patch.whole, sizes, swap=not plain)
            bias = _rows(patch.bias, sizes, swap=not plain)
            return [replace(patch, whole=w, bias=b) for w, b in zip(whole, bias, strict=True)]
        case Magnitude(inner=LowRank() as inner, by_columns=False):
            pieces = _low_rank(inner, sizes, swap=not plain)
            magnitudes = _rows(patch.magnitude.flatten(), sizes, swap=not plain)
            bias = _rows(patch.bias, sizes, swap=not plain)
            return [
                replace(patch, inner=piece, magnitude=m, bias=b)
                for piece, m, b in zip(pieces, magnitudes, bias, strict=True)
            ]
        case _:
            return None


def _transposed(patch: LowRank) -> LowRank:
    return replace(patch, down=patch.up.flatten(1).T.contiguous(), up=patch.down.flatten(1).T.contiguous())


def _low_rank(patch: LowRank, sizes: Sequence[int], *, swap: bool) -> list[LowRank]:
    ups, bias = _rows(patch.up, sizes, swap=swap), _rows(patch.bias, sizes, swap=swap)
    return [replace(patch, up=up, bias=b) for up, b in zip(ups, bias, strict=True) if up is not None]


def _rows(tensor: Tensor | None, sizes: Sequence[int], *, swap: bool) -> list[Tensor | None]:
    if tensor is None:
        return [None] * len(sizes)
    if swap:
        tensor = torch.cat([*reversed(tensor.chunk(2))])
    return [piece.contiguous() for piece in tensor.split(list(sizes))]


def fused(patches: Sequence[Patch | None], sizes: Sequence[int], *, swap: bool = False) -> Patch | None:
    """One patch of a fused matrix; None for kinds that do not join.

    Args:
        patches: those of the layers that hold its rows, in order; None for a layer that has none.
        sizes: the number of rows of each layer.
        swap: whether the matrix has its halves in the other order.
    """
    present = [patch for patch in patches if patch is not None]
    if len(sizes) == 1 and not swap:
        return present[0]
    if all(isinstance(patch, LowRank) and patch.middle is None for patch in present):
        made: Patch = _fused_low_rank([patch if isinstance(patch, LowRank) else None for patch in patches], sizes)
    elif all(isinstance(patch, Full) for patch in present):
        made = _fused_full([patch if isinstance(patch, Full) else None for patch in patches], sizes)
    else:
        return None
    if not swap:
        return made
    return (split(Placed(_SWAPPED, made), [sum(sizes)]) or [None])[0]


def _fused_low_rank(patches: Sequence[LowRank | None], sizes: Sequence[int]) -> LowRank:
    """Block-diagonal factors, or the shared `down` where all layers have the same: then the rank stays."""
    present = [patch for patch in patches if patch is not None]
    first = present[0]
    bias = _fused_rows([None if patch is None else patch.bias for patch in patches], sizes)
    shared = len(present) == len(sizes) and all(
        patch.scale == first.scale and patch.down.shape == first.down.shape and torch.equal(patch.down, first.down)
        for patch in present[1:]
    )
    if shared:
        return LowRank(down=first.down, up=torch.cat([p.up.flatten(1) for p in present]), scale=first.scale, bias=bias)
    scale = _common_scale(present)
    ups = [None if patch is None else _scaled_up(patch, scale) for patch in patches]
    dtype = max((up.dtype for up in ups if up is not None), key=lambda kind: kind.itemsize)
    rows = [torch.zeros(size, 0) if up is None else up for up, size in zip(ups, sizes, strict=True)]
    up = torch.block_diag(*(block.to(dtype) for block in rows))
    return LowRank(down=torch.cat([patch.down for patch in present]), up=up, scale=scale, bias=bias)


def concatenated(patches: Sequence[LowRank]) -> LowRank:
    """The factors of several patches of one matrix, one behind the other: their sum."""
    if len(patches) == 1:
        return patches[0]
    scale = _common_scale(patches)
    up = torch.cat([_scaled_up(patch, scale) for patch in patches], dim=1)
    biases = [patch.bias.float() for patch in patches if patch.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return LowRank(down=torch.cat([patch.down for patch in patches]), up=up, scale=scale, bias=bias)


def _common_scale(patches: Sequence[LowRank]) -> float:
    return patches[0].scale if len({patch.scale for patch in patches}) == 1 else 1.0


def _scaled_up(patch: LowRank, scale: float) -> Tensor:
    """`up` as a matrix, for another scale of the patch."""
    up = patch.up.flatten(1)
    return up if scale == patch.scale else folded(up, patch.scale / scale)


def folded(tensor: Tensor, scale: float) -> Tensor:
    """A tensor times a number: in its dtype if no bit is lost, else in float32."""
    if scale == 1.0:
        return tensor
    made = tensor.float() * scale
    return small if torch.equal((small := made.to(tensor.dtype)).float(), made) else made


def _fused_full(patches: Sequence[Full | None], sizes: Sequence[int]) -> Full:
    wholes = [None if p is None or p.whole is None else folded(p.whole, p.scale) for p in patches]
    biases = [None if p is None else p.bias for p in patches]
    return Full(whole=_fused_rows(wholes, sizes), bias=_fused_rows(biases, sizes))


def _fused_rows(tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> Tensor | None:
    """Rows one below the other, zeros where there are none; None if there are none at all."""
    like = next((tensor for tensor in tensors if tensor is not None), None)
    if like is None:
        return None
    return torch.cat([
        like.new_zeros(size, *like.shape[1:]) if tensor is None else tensor
        for tensor, size in zip(tensors, sizes, strict=True)
    ])  # fmt: skip
