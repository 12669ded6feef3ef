"""`Buckets`: sizes of training pictures by aspect ratio, and the place of a picture in its size."""

from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Literal, TypeAlias

from ....blocks.image.place import Pair, Placement
from ....graph.errors import ConfigError
from .draws import Draws

Crop: TypeAlias = Literal["center", "random"]


@dataclass(frozen=True)
class Buckets:
    """Sizes of about equal area and different aspect ratios. A picture gets the one whose ratio is closest to its own.

    Args:
        size: pixels a side of the square; no size has more pixels.
        step: sides are multiples of it.
        least, most: the shortest and the longest side; None for a half of `size` and for its double.
        enlarge: off, a picture that is smaller than its size keeps its own, rounded down to multiples of `step`.

    Raises:
        ConfigError: sides that leave no size.
    """

    size: int = 512
    step: int = 64
    least: int | None = None
    most: int | None = None
    enlarge: bool = True

    def __post_init__(self) -> None:
        if self.step < 1 or self.size < self.step:
            raise ConfigError(f"size: needs {self.step} pixels or more, which is the step, got {self.size}.")
        if not self.sizes:
            raise ConfigError(
                f"Buckets need a side between {self._least} and {self._most} that is a multiple of {self.step}. "
                "Change least, most or step."
            )

    @property
    def _least(self) -> int:
        return max(self.size // 2, self.step) if self.least is None else self.least

    @property
    def _most(self) -> int:
        return self.size * 2 if self.most is None else self.most

    @cached_property
    def sizes(self) -> tuple[Pair, ...]:
        """All sizes, as (rows, columns): for each number of rows the most columns that the area allows, and the
        transposed ones.
        """
        step, area = self.step, self.size * self.size
        sides = range(-(-self._least // step) * step, self._most + 1, step)
        found = {(rows, min(area // rows, self._most) // step * step) for rows in sides}
        found |= {(columns, rows) for rows, columns in found}
        return tuple(sorted(size for size in found if min(size) >= max(self._least, 1)))

    def size_for(self, own: Pair) -> Pair:
        """The size for a picture of its own size."""
        ratio = log(own[0] / own[1])
        size = min(self.sizes, key=lambda s: (abs(log(s[0] / s[1]) - ratio), -s[0] * s[1]))
        if self.enlarge or (own[0] >= size[0] and own[1] >= size[1]):
            return size
        factor = min(max(size[0] / own[0], size[1] / own[1]), 1)
        rows, columns = (max(int(side * factor) // self.step, 1) * self.step for side in own)
        return min(rows, size[0]), min(columns, size[1])


def place(own: Pair, size: Pair, crop: Crop, flip: float, draws: Draws) -> Placement:
    """Place a picture of its own size in a size: it covers all of it, and what juts out is cropped.

    flip: the share of pictures that are mirrored.
    """
    factor = max(size[0] / own[0], size[1] / own[1])
    resized = max(round(own[0] * factor), size[0]), max(round(own[1] * factor), size[1])
    spare = resized[0] - size[0], resized[1] - size[1]
    if crop == "random":
        corner = draws.at("top").below(spare[0] + 1), draws.at("left").below(spare[1] + 1)
    else:
        corner = spare[0] // 2, spare[1] // 2
    return Placement(resized, corner, size, draws.at("flip").number() < flip)
