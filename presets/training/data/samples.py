"""`Sample`: a picture as one epoch uses it. `Batch`: samples of one size, which make the inputs of a recipe."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from ....blocks.image.place import Pair, PlaceAlpha, PlaceMask, Placement, PlacePicture, Stored

Use: TypeAlias = tuple[int, int, int]
"""One use of a picture in an epoch: the numbers of its part and of its record, and of the use."""

PICTURES = "pixels", "control_image", "mask"
VALUES = "prompt", "original_size", "crops_coords_top_left", "target_size", "is_prior"
"""The inputs of a recipe that data makes, with pixels and without."""


@dataclass(frozen=True)
class Sample:
    """One use of a picture in one epoch, with all that was chosen at random for it.

    index: the number of this use in the epoch; no other use has it. size: of the picture as it is
    stored, upright, in pixels. prompt: None where the data has no captions. mask: "alpha" takes that of the picture.
    """

    index: int
    name: str
    picture: Stored
    size: Pair
    placement: Placement
    prompt: str | None
    is_prior: bool = False
    mask: Stored | str | None = None
    control: Stored | None = None
    background: str = "white"

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The inputs of a recipe that need no picture to be read."""
        values: dict[str, Any] = {} if self.prompt is None else {"prompt": self.prompt}
        place = self.placement
        values |= {"original_size": self.size, "crops_coords_top_left": place.corner, "target_size": place.size}
        return MappingProxyType({**values, "is_prior": self.is_prior})

    @cached_property
    def readers(self) -> Mapping[str, tuple[PlacePicture | PlaceMask | PlaceAlpha, Mapping[str, Stored]]]:
        """For each input with pixels, the block that reads it, and the picture that it reads."""
        picture = PlacePicture(background=self.background)
        readers: dict[str, Any] = {"pixels": (picture, {"picture": self.picture})}
        if self.control is not None:
            readers["control_image"] = picture, {"picture": self.control}
        if isinstance(self.mask, str):
            readers["mask"] = PlaceAlpha(), {"picture": self.picture}
        elif self.mask is not None:
            readers["mask"] = PlaceMask(), {"mask_picture": self.mask}
        return MappingProxyType(readers)

    def read(self, name: str) -> torch.Tensor:
        """Read an input with pixels: (1, channels, rows, columns)."""
        block, picture = self.readers[name]
        (pixels,) = block(**picture, placement=self.placement)
        return pixels


@dataclass(frozen=True)
class Batch:
    """Samples of one size. Their pictures are read by `load`.

    Args:
        samples: one for each row.
        inputs: the names of the values that `load` makes.
    """

    samples: tuple[Sample, ...]
    inputs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pictures, one for each row."""
        return tuple(sample.name for sample in self.samples)

    @property
    def places(self) -> tuple[int, ...]:
        """The numbers of the samples in the epoch, one for each row. No other row of the epoch has the same."""
        return tuple(sample.index for sample in self.samples)

    def load(self) -> dict[str, Any]:
        """The inputs of a recipe for these rows, by name. Pictures are read in threads.

        `pixels`, `control_image` (rows, 3, height, width) and `mask` (rows, 1, height, width), from 0 to 1; `prompt`, a
        text for each row; `original_size`, `crops_coords_top_left` and `target_size`, a pair (rows, columns) for each
        row; `is_prior` (rows,).

        Raises:
            PictureError: a picture that can no longer be read.
        """
        return {name: self._value(name) for name in self.inputs}

    def _value(self, name: str) -> Any:  # of an input
        if name not in self.samples[0].readers:
            values = tuple(sample.values[name] for sample in self.samples)
            return torch.tensor(values) if name == "is_prior" else values
        if len(self.samples) == 1:
            return self.samples[0].read(name)
        with ThreadPoolExecutor(min(len(self.samples), 8), "sfumato-pictures") as pool:
            return torch.cat(list(pool.map(partial(Sample.read, name=name), self.samples)))
