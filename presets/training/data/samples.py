"""`Sample`: a picture as one epoch uses it. `Batch`: samples of one size, with the inputs of a recipe."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

import torch

from ....blocks.image.place import Pair, PlaceAlpha, PlaceMask, Placement, PlacePicture, Stored

Use: TypeAlias = tuple[int, int, int]
"""One use of a picture in an epoch: the numbers of its part and of its record, and of the use."""


@dataclass(frozen=True)
class Sample:
    """One use of a picture in one epoch, with all that was chosen at random for it.

    index: of this use in the epoch, in the order of the sources; no other use has it. size: of the picture as it is
    stored, upright, in pixels. prompt: None where the data has no captions. mask: "alpha" takes that of the picture.
    seed: of its noise.
    """

    index: int
    name: str
    picture: Stored
    size: Pair
    placement: Placement
    prompt: str | None
    seed: int
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


class Inputs(Mapping[str, Any]):
    """The inputs of a batch by name. Pictures are read when their input is first looked up."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = self._made(name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        first = self._samples[0]
        return iter((*first.readers, *first.values))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in self._samples[0].readers or name in self._samples[0].values

    def _made(self, name: str) -> Any:
        if name in self._samples[0].readers:
            return torch.cat([sample.read(name) for sample in self._samples])
        values = tuple(sample.values[name] for sample in self._samples)
        return torch.tensor(values) if name == "is_prior" else values


@dataclass(frozen=True)
class Batch:
    """Samples of one size, which one process computes at once.

    Args:
        samples: one for each row.
        number: of the batch among those of its process in the epoch.
        step: the number of its optimizer step in the epoch.
        ends_step: whether it is the last batch of its step.
        weight: its rows divided by all rows of the step, of all processes. 0 for a batch that another process has, and
            that is computed for the sake of taking part alone.
    """

    samples: tuple[Sample, ...]
    number: int
    step: int
    ends_step: bool
    weight: float
    inputs: Inputs = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", Inputs(self.samples))

    @property
    def rows(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pictures."""
        return tuple(sample.name for sample in self.samples)

    @property
    def seeds(self) -> tuple[int, ...]:
        """A seed for each row."""
        return tuple(sample.seed for sample in self.samples)

    def read(self, names: Collection[str]) -> "Batch":
        """Read those of the inputs that the data has, and return the batch."""
        for name in names:
            if name in self.inputs:
                self.inputs[name]
        return self
