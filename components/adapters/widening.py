"""Adapters that widen the input of a model: with them its first layer reads more channels (Flux.1 Canny and Depth)."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .names import ModelNames, Target
from .patches import Patch

_INPUTS: Mapping[str, str] = {"FluxTransformer2DModel": "x_embedder"}
"""The first layer of the classes whose input may be widened. Their configs have `in_channels` and `out_channels`."""


def columns_of(patch: Patch, names: ModelNames, target: Target) -> int:
    """The number of columns to which a patch widens the first layer of a model; 0 where it does not.

    Control pictures and masks are further latents, so it is a multiple of the layer's own number.
    """
    if target.layers != (_INPUTS.get(names.class_name),):
        return 0
    shape = names.source_shape(target)
    out, *rest = patch.shape(shape)
    fits = out == shape[0] and len(rest) == 1 and rest[0] > shape[1] and rest[0] % shape[1] == 0
    return rest[0] if fits else 0


def wide_shape(shape: torch.Size, columns: int) -> torch.Size:
    """The shape of a matrix with so many columns; 0 for those that it has."""
    return torch.Size((shape[0], columns, *shape[2:])) if columns else shape


def wide(matrix: Tensor, columns: int) -> Tensor:
    """A matrix with columns of zeros behind its own."""
    missing = columns - matrix.shape[1] if matrix.ndim == 2 else 0
    return nn.functional.pad(matrix, (0, missing)) if missing > 0 else matrix


def summed(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two tensors. Where both are matrices, the one with fewer columns has zeros behind them."""
    columns = max(t.shape[1] if t.ndim == 2 else 0 for t in (one, other))
    return wide(one, columns) + wide(other, columns)


def wide_keys(config: Mapping[str, Any], columns: Iterable[int]) -> Mapping[str, Any]:  # Any: JSON values
    """The keys of a model's config that differ where its first layer has so many columns; {} where none do."""
    widest = max(columns, default=0)
    own = config.get("in_channels", 0)
    return {"in_channels": widest, "out_channels": config.get("out_channels") or own} if widest > own else {}
