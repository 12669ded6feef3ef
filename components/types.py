"""The values that flow between blocks, as port types."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from pydantic import FiniteFloat
from torch import Tensor

from ..graph.space import ANY_SPACE
from ..graph.typing import Port
from .conditioning import Conditioning as Conditioning
from .models.taps import NO_TAPS
from .models.taps import Taps as Taps
from .random import Random as Random
from .schedulers.schedule import Schedule, Step

Latents = Annotated[Float[Tensor, "batch channels height width"], Port("latents", space=ANY_SPACE)]
"""What the denoiser works on, scaled as its autoencoder says (unit variance)."""
ImageLatents = Annotated[Float[Tensor, "batch channels height width"], Port("image_latents", space=ANY_SPACE)]
"""Clean latents of a given image."""
Prediction = Annotated[Float[Tensor, "batch channels height width"], Port("prediction", space=ANY_SPACE)]
"""What the denoiser says of the latents; its meaning is the scheduler's `prediction_type`."""
Images = Annotated[Float[Tensor, "images 3 rows columns"], Port("images")]
"""Pixels, red green blue, from 0 to 1."""
Mask = Annotated[Float[Tensor, "masks 1 rows columns"], Port("mask")]
"""1 where something new is painted, 0 where the image is kept; at pixel size."""
LatentMask = Annotated[Float[Tensor, "batch 1 height width"], Port("latent_mask")]
"""A mask at latent size."""
Steps = Annotated[Schedule, Port("steps")]
"""The turns of a denoising loop."""

Number = FiniteFloat
"""A float that is neither infinite nor no number."""
ZeroToOne = Annotated[float, Ge(0), Le(1)]
"""A fraction, from 0 to 1."""

Role = Literal["positive", "negative", "perturbed"]


class Rows(NamedTuple):
    """How many pictures a call makes: `each` for every one of `prompts`."""

    prompts: int
    each: int

    @property
    def total(self) -> int:
        return self.prompts * self.each


Residuals: TypeAlias = Mapping[str, tuple[Tensor, ...]]
"""What a control net adds inside a denoiser: for each place where it is added, a tensor for each layer there.

U-Nets have "down" (one for each skip connection), "mid" (one), and "levels" (one for each level going down, and maybe
one more for the middle).
"""


@dataclass(frozen=True)
class Pass:
    """One question to the denoiser. Guiders ask several at once; blocks that take `predict` may `replace` fields.

    latents: (batch, channels, height, width), not scaled by the scheduler. channels: joined behind the latents after
    that scaling, each (batch, c, height, width). references: clean latents of images that it may look at, each
    (batch, channels, h, w). residuals: added inside the model. taps: what its layers do otherwise.
    """

    latents: Tensor
    step: Step
    conditioning: Conditioning
    role: Role = "positive"
    channels: tuple[Tensor, ...] = ()
    references: tuple[Tensor, ...] = ()
    residuals: tuple[Residuals, ...] = ()
    taps: Taps = NO_TAPS


class RowSlice(Mapping[str, tuple[Tensor, ...]]):
    """`count` rows from `first` on of what was made for several passes at once; cut out where they are read."""

    def __init__(self, whole: Residuals, first: int, count: int) -> None:
        self.whole, self.first, self.count = whole, first, count

    def __getitem__(self, place: str) -> tuple[Tensor, ...]:
        return tuple(t[self.first : self.first + self.count] for t in self.whole[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


Layers = tuple[Tensor, ...]
RepeatLayers = Callable[[Layers], Layers]
"""Fewer layers as one for each block of a denoiser, where each serves several blocks."""


def sum_residuals(passes: Sequence[Pass], places: Mapping[str, RepeatLayers | None]) -> Residuals:
    """What all control nets add together at each place, for the rows of all passes; {} without any.

    places: those that the denoiser has, each with how layers are spread over its blocks there, or None where there must
    be as many from each net. Nets of unlike depths are spread, each by its own interval, before they are added.

    Raises:
        TypeError: a control net for a denoiser that has other places, or other layers there.
    """
    if len({len(p.residuals) for p in passes}) == 1:
        together = [_uncut(parts) for parts in zip(*(p.residuals for p in passes), strict=True)]
        whole = [residuals for residuals in together if residuals is not None]
        if len(whole) == len(together):
            return _total(whole, places)
    added = [_total(p.residuals, places) for p in passes]
    return {
        place: tuple(map(torch.cat, zip(*_alike([own[place] for own in added], place, places), strict=True)))
        for place in added[0]
    }


def _uncut(parts: Sequence[Residuals]) -> Residuals | None:
    """What the parts were cut from, if together they are all of it in its order: then nothing is cut and joined."""
    first = parts[0]
    if not isinstance(first, RowSlice):
        return None
    row = 0
    for part in parts:
        if not isinstance(part, RowSlice) or part.whole is not first.whole or part.first != row:
            return None
        row += part.count
    rows = next((len(t) for layers in first.whole.values() for t in layers), row)
    return first.whole if row == rows else None


def _total(residuals: Sequence[Residuals], places: Mapping[str, RepeatLayers | None]) -> dict[str, Layers]:
    said: dict[str, list[Layers]] = {}
    for place, layers in (item for one in residuals for item in one.items()):
        if place not in places:
            told = f"This denoiser has no place {place!r} to add to; it has: {', '.join(places)}."
            raise TypeError(f"{told} The control net was made for another family.")
        said.setdefault(place, []).append(layers)
    return {
        place: tuple(reduce(add, layer) for layer in zip(*_alike(layers, place, places), strict=True))
        for place, layers in said.items()
    }


def _alike(several: Sequence[Layers], place: str, places: Mapping[str, RepeatLayers | None]) -> Sequence[Layers]:
    """What several nets or passes have at a place, with as many layers each."""
    counts = [len(layers) for layers in several]
    if len(set(counts)) == 1:
        return several
    if (spread := places[place]) is None:
        told = f"Control nets add {' and '.join(map(str, counts))} layers at {place!r}, which wants as many from each."
        raise TypeError(f"{told} They were made for unlike denoisers.")
    return [spread(layers) for layers in several]


PredictFunction = Callable[[Sequence[Pass]], Sequence[Tensor]]
Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=Conditioning)]
"""The denoiser as a function: one prediction for each pass, in order. How passes share a forward is its own affair."""


def predict_each(
    predict: Predict,
    passes: Sequence[Pass],
    into: Callable[[Pass], Sequence[Pass]],
    join: Callable[[Sequence[Tensor]], Tensor],
) -> Sequence[Tensor]:
    """Ask several passes in place of each, all in one call, and join each one's answers: for regions and tiles."""
    several = [into(p) for p in passes]
    answers = iter(predict([p for group in several for p in group]))
    return [join([next(answers) for _ in group]) for group in several]
