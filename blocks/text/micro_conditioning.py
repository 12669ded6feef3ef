"""Micro-conditioning of SDXL: sizes, crops and an aesthetic score besides the prompt (Podell et al. 2023, 2.2)."""

from typing import Annotated, NamedTuple

import torch

from ...components.conditioning import SDXLConditioning, SDXLText
from ...components.types import Count, Latents, Number
from ...graph import Block, Port, knob

Pair = tuple[int, int]
"""Rows and columns, in pixels."""
SizeIds = Annotated[tuple[float, ...], Port("size_ids")]
"""The numbers that a U-Net of SDXL reads: original size, crop, target size, each (rows, columns)."""


class Chosen(NamedTuple):
    """The numbers for the positive and for the negative prompt."""

    sizes: SizeIds
    negative_sizes: SizeIds


class ChooseSizes(Block):
    """Choose the size of the training pictures, where they were cropped, and the size of the result.

    All are (rows, columns) in pixels. Sizes that are not passed are those of the picture that is made; those of the
    negative prompt are by default those of the positive one. factor: pixels a side of a latent.
    """

    factor: Count = 8

    def __call__(
        self,
        latents: Latents,
        original_size: Pair | None = None,
        crops_coords_top_left: Pair = (0, 0),
        target_size: Pair | None = None,
        negative_original_size: Pair | None = None,
        negative_crops_coords_top_left: Pair | None = None,
        negative_target_size: Pair | None = None,
    ) -> Chosen:
        own = _size(latents, self.factor)
        original, target, crop = original_size or own, target_size or own, crops_coords_top_left
        negative = negative_original_size or original, negative_crops_coords_top_left or crop
        return Chosen((*original, *crop, *target), (*negative[0], *negative[1], *(negative_target_size or target)))


class UseAestheticScore(Block):
    """Put LAION's aesthetic score, about 1 to 10, in place of the target size: then the numbers are five.

    For U-Nets that were trained so, such as the refiner.
    """

    aesthetic_score: Number = knob(6.0)
    negative_aesthetic_score: Number = knob(2.5)

    def __call__(self, sizes: SizeIds, negative_sizes: SizeIds) -> Chosen:
        return Chosen((*sizes[:4], self.aesthetic_score), (*negative_sizes[:4], self.negative_aesthetic_score))


class Sized(NamedTuple):
    """Conditioning for the U-Net."""

    conditioning: SDXLConditioning


class AddSizes(Block):
    """Add the numbers to an encoded prompt, the same in each row."""

    def __call__(self, text: SDXLText, sizes: SizeIds) -> Sized:
        ids = torch.tensor(sizes, device=text.tokens.device).float().expand(text.rows, -1)
        return Sized(text.map(lambda one: SDXLConditioning(one.tokens, one.pooled, ids)))


def _size(latents: Latents, factor: int) -> Pair:
    return latents.shape[2] * factor, latents.shape[3] * factor
