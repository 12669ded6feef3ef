"""The sizes of the levels of a U-Net."""

from collections.abc import Iterable
from typing import TypeAlias

from ...graph.errors import UnfitValue

Size: TypeAlias = tuple[int, int]
"""Height and width."""


def level_size(tokens: int, size: Size) -> Size:
    """Find the height and width of the U-Net level with `tokens` tokens, for latents of `size`.

    Raises:
        UnfitValue: no level has so many tokens.
    """
    for rounding in (1, 0):  # an odd side is rounded up, or down where a U-Net does not pad before it halves
        for sides in _level_sizes(size, rounding):
            if sides[0] * sides[1] == tokens:
                return sides
    raise UnfitValue(f"Needs the tokens of a level of latents of {size[0]}x{size[1]}, got {tokens} tokens.")


def _level_sizes(size: Size, up: int) -> Iterable[Size]:
    height, width = size
    yield height, width
    while height * width > 1:
        height, width = max(1, (height + up) // 2), max(1, (width + up) // 2)
        yield height, width
