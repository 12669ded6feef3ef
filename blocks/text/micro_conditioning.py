"""Micro-conditioning of SDXL: sizes, crops and an aesthetic score besides the prompt (Podell et al. 2023, 2.2)."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, cast

import torch
from annotated_types import MinLen

from ...components.conditioning import SDXLConditioning, SDXLText
from ...components.types import Count, Latents, Number
from ...graph import Block, Port, knob
from ...graph.errors import UnfitValue
from ...registry import counted

Pair = tuple[int, int]
"""Rows and columns, in pixels."""
Pairs = Pair | Annotated[Sequence[Pair], MinLen(1)]
"""One pair for all prompts, or a list with one for each."""
SizeIds = Annotated[tuple[tuple[float, ...], ...], Port("size_ids")]
"""The numbers that a U-Net of SDXL reads: original size, crop, target size, each (rows, columns).

One row of numbers for all prompts, or one for each.
"""


class Chosen(NamedTuple):
    """The numbers for the positive and for the negative prompt."""

    sizes: SizeIds
    negative_sizes: SizeIds


class ChooseSizes(Block):
    """Choose the size of the training pictures, where they were cropped, and the size of the result.

    All are (rows, columns) in pixels, one for all prompts or a list with one for each. Sizes that are not passed are
    those of the picture that is made; those of the negative prompt are by default those of the positive one. factor:
    pixels a side of a latent.

    Raises:
        UnfitValue: lists of different lengths.
    """

    factor: Count = 8

    def __call__(
        self,
        latents: Latents,
        original_size: Pairs | None = None,
        crops_coords_top_left: Pairs = (0, 0),
        target_size: Pairs | None = None,
        negative_original_size: Pairs | None = None,
        negative_crops_coords_top_left: Pairs | None = None,
        negative_target_size: Pairs | None = None,
    ) -> Chosen:
        own = latents.shape[2] * self.factor, latents.shape[3] * self.factor
        original, crop, target = original_size or own, crops_coords_top_left, target_size or own
        return Chosen(
            _rows(original_size=original, crops_coords_top_left=crop, target_size=target),
            _rows(
                negative_original_size=negative_original_size or original,
                negative_crops_coords_top_left=negative_crops_coords_top_left or crop,
                negative_target_size=negative_target_size or target,
            ),
        )


class UseAestheticScore(Block):
    """Put LAION's aesthetic score, about 1 to 10, in place of the target size: then the numbers are five.

    For U-Nets that were trained so, such as the refiner.
    """

    aesthetic_score: Number = knob(6.0)
    negative_aesthetic_score: Number = knob(2.5)

    def __call__(self, sizes: SizeIds, negative_sizes: SizeIds) -> Chosen:
        return Chosen(
            tuple((*row[:4], self.aesthetic_score) for row in sizes),
            tuple((*row[:4], self.negative_aesthetic_score) for row in negative_sizes),
        )


class Sized(NamedTuple):
    """Conditioning for the U-Net."""

    conditioning: SDXLConditioning


class AddSizes(Block):
    """Add the numbers to an encoded prompt: the same in each row, or those of the row.

    Raises:
        UnfitValue: neither one row of numbers, nor one for each prompt.
    """

    def __call__(self, text: SDXLText, sizes: SizeIds) -> Sized:
        if text.rows == 1 < len(sizes):
            text = text.expand(len(sizes), 1)
        if len(sizes) not in (1, text.rows):
            raise UnfitValue(
                f"Got {counted(len(sizes), 'size')} for {counted(text.rows, 'prompt')}. Give one for all, or one each."
            )
        ids = torch.tensor(sizes, device=text.tokens.device).float().expand(text.rows, -1)
        return Sized(text.map(lambda one: SDXLConditioning(one.tokens, one.pooled, ids)))


def _rows(**sizes: Pairs) -> tuple[tuple[float, ...], ...]:
    """The numbers of each prompt side by side. UnfitValue for lists of different lengths."""
    lists = [_each(pairs) for pairs in sizes.values()]
    count = max(map(len, lists))
    if not {*map(len, lists)} <= {1, count}:
        each = [f"{name} has {counted(len(pairs), 'pair')}" for name, pairs in zip(sizes, lists, strict=True)]
        raise UnfitValue(f"{', '.join(each[:-1])}, and {each[-1]}. Give one for all prompts, or one each.")
    whole = [pairs * count if len(pairs) == 1 else pairs for pairs in lists]
    return tuple(tuple(number for pair in row for number in pair) for row in zip(*whole, strict=True))


def _each(pairs: Pairs) -> tuple[Pair, ...]:
    first = pairs[0]
    return (cast(Pair, pairs),) if isinstance(first, int) else tuple(cast(Sequence[Pair], pairs))
