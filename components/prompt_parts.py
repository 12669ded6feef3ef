"""Several prompts for one picture, each with its weight, place and steps."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .conditioning import Conditioning

_SOFT = 8
"""Latents at the edge of an area over which its weight rises."""


@dataclass(frozen=True)
class Area:
    """A rectangle in shares of the sides of a picture, from 0 to 1; or in pixels, `factor` a side of a latent."""

    left: float
    top: float
    width: float
    height: float
    factor: int = 0

    def cells(self, rows: int, columns: int) -> tuple[slice, slice]:
        """The rows and columns of latents in it, one at least."""
        down, across = (1 / self.factor, 1 / self.factor) if self.factor else (rows, columns)
        return (
            _span(self.top * down, self.height * down, rows),
            _span(self.left * across, self.width * across, columns),
        )

    def weights(self, rows: int, columns: int) -> Tensor:
        """A weight for each latent in it, (1, 1, h, w): 1, and less near edges that are inside of the picture."""
        down, across = self.cells(rows, columns)
        return (_ramp(down, rows)[:, None] * _ramp(across, columns)[None])[None, None]


def _span(begin: float, length: float, count: int) -> slice:
    first = min(int(begin + 0.5), count - 1)
    return slice(first, min(first + max(int(length + 0.5), 1), count))


def _ramp(span: slice, count: int) -> Tensor:
    length = span.stop - span.start
    ramp = torch.ones(length, device="cpu")
    for i in range(min(_SOFT, length)):
        if span.start:
            ramp[i] *= (i + 1) / _SOFT
        if span.stop < count:
            ramp[length - 1 - i] *= (i + 1) / _SOFT
    return ramp


@dataclass(frozen=True)
class PromptPart:
    """One of several prompts. mask: (1 or rows, 1, h, w), from 0 to 1, at any size. start, stop: of the steps."""

    conditioning: Conditioning
    weight: float = 1.0
    area: Area | None = None
    mask: Tensor | None = None
    start: float = 0.0
    stop: float = 1.0

    def cells(self, latents: Tensor) -> tuple[slice, slice]:
        """The rows and columns of latents in its area."""
        rows, columns = latents.shape[2:]
        return (slice(0, rows), slice(0, columns)) if self.area is None else self.area.cells(rows, columns)

    def weights(self, latents: Tensor, mask: Tensor | None) -> Tensor:
        """The weight of each latent in its area, (1 or rows, 1, h, w). mask: the rows of its mask for these latents."""
        rows, columns = latents.shape[2:]
        made = torch.full((1, 1, rows, columns), self.weight, device="cpu")
        if mask is not None:
            made = made * interpolate(mask.float().cpu(), size=(rows, columns), mode="bilinear")
        down, across = self.cells(latents)
        made = made[..., down, across]
        return (made if self.area is None else made * self.area.weights(rows, columns)).to(latents)


PromptParts: TypeAlias = tuple[PromptPart, ...]
"""Several prompts for one picture, in order."""
