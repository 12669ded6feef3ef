"""The port types: the values that flow between blocks."""

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

from ..graph.errors import UnfitValue
from ..graph.limits import LIMITS
from ..graph.space import ANY_SPACE
from ..graph.typing import Port
from .conditioning import Conditioning as Conditioning
from .halfway import HalfwayLatents as HalfwayLatents
from .models.image_attention import ImageTokens
from .random import Random as Random
from .schedulers.schedule import Schedule, Step
from .taps.memory import PassMemory
from .taps.tap import NO_TAPS
from .taps.tap import Taps as Taps

Latents = Annotated[Float[Tensor, "batch channels height width"], Port("latents", space=ANY_SPACE)]
"""Noisy latents `b c h w`, scaled by the autoencoder's factor to unit variance."""
ImageLatents = Annotated[Float[Tensor, "batch channels height width"], Port("image_latents", space=ANY_SPACE)]
"""Clean latents `b c h w` of an image."""
Prediction = Annotated[Float[Tensor, "batch channels height width"], Port("prediction", space=ANY_SPACE)]
"""The denoiser's answer `b c h w`: noise, velocity or the clean latents, by the scheduler's `prediction_type`."""
Images = Annotated[Float[Tensor, "images 3 rows columns"], Port("images")]
"""Pixels in the order red, green, blue, from 0 to 1."""
Mask = Annotated[Float[Tensor, "masks 1 rows columns"], Port("mask")]
"""1 where the image is painted anew, 0 where it is kept; at the size of the pixels."""
LatentMask = Annotated[Float[Tensor, "batch 1 height width"], Port("latent_mask")]
"""A mask at the size of the latents."""
Steps = Annotated[Schedule, Port("steps")]
"""The steps of a denoising loop."""

Halfway: TypeAlias = HalfwayLatents | Latents | None
"""Latents of a run that stopped between two steps, with what the next steps need; or the latents alone."""

Count = Annotated[int, Ge(1)]
"""A whole number, at least 1."""
Side = Annotated[int, Ge(1), Le(LIMITS["side"].value)]
"""Pixels a side of a picture."""
PictureCount = Annotated[int, Ge(1), Le(LIMITS["pictures"].value)]
"""The number of pictures of one prompt."""
StepCount = Annotated[int, Ge(1), Le(LIMITS["steps"].value)]
"""The number of steps of a run."""
Number = FiniteFloat
"""A float that is neither infinite nor NaN."""
ZeroToOne = Annotated[float, Ge(0), Le(1)]
"""A fraction, from 0 to 1."""

Role = Literal["positive", "negative", "perturbed"]


class Rows(NamedTuple):
    """The rows of a call: `each` images for each of `prompts` prompts."""

    prompts: int
    each: int

    @property
    def total(self) -> int:
        """The number of images."""
        return self.prompts * self.each

    @classmethod
    def cat(cls, parts: "Sequence[Rows]") -> "Rows":
        """The rows of all parts, which have as many images for each prompt."""
        return cls(sum(part.prompts for part in parts), parts[0].each)


Residuals: TypeAlias = Mapping[str, tuple[Tensor, ...]]
"""The residuals that a control net adds inside a denoiser: for each named place, a tensor for each layer there.

U-Nets have "down" (one for each skip connection), "mid" (one), and "levels" (one for each down level, and optionally
one more for the middle).
"""


@dataclass(frozen=True)
class Pass:
    """One question to the denoiser. A guider asks several in one call; a block that takes `predict` may change fields.

    latents: (batch, channels, height, width), not yet scaled by the scheduler. step: the time. conditioning: the
    prompt; of one that changes over the steps, that of this step. role: why the guider asks. channels: more input
    channels, appended after the scaling, each (batch, c, height, width). references: clean latents of reference images,
    each (batch, channels, h, w). residuals: of control nets, added inside the model. taps: changes of layers. images:
    image prompts. guidance: the guidance scale that a distilled denoiser reads; None for that of its block. row: the
    first of its rows among those of the call; a pass has all of them, unless they are in different steps.
    memories: of step caches, which their taps read and write.
    """

    latents: Tensor
    step: Step
    conditioning: Conditioning
    role: Role = "positive"
    channels: tuple[Tensor, ...] = ()
    references: tuple[Tensor, ...] = ()
    residuals: tuple[Residuals, ...] = ()
    taps: Taps = NO_TAPS
    images: tuple[ImageTokens, ...] = ()
    guidance: float | None = None
    row: int = 0
    memories: tuple[PassMemory, ...] = ()

    def __post_init__(self) -> None:
        if getattr(self.conditioning, "over_steps", None) is not None:  # a guider alone may be called with any prompt
            object.__setattr__(self, "conditioning", self.conditioning.at(self.step))

    def rows_of(self, t: Tensor) -> Tensor:
        """The rows of a tensor for this pass. The tensor has a row for each row of the call, or one for all."""
        count = len(self.latents)
        if len(t) == count:
            return t
        return t.expand(count, *t.shape[1:]) if len(t) == 1 else t[self.row : self.row + count]


class RowSlice(Mapping[str, tuple[Tensor, ...]]):
    """`count` rows, from row `first` on, of residuals that were made for several passes. They are sliced when read."""

    def __init__(self, whole: Residuals, first: int, count: int) -> None:
        self.whole, self.first, self.count = whole, first, count

    def __getitem__(self, place: str) -> tuple[Tensor, ...]:
        return tuple(t[self.first : self.first + self.count] for t in self.whole[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)


Layers = tuple[Tensor, ...]
"""The residuals at one place, a tensor for each layer."""
RepeatLayers = Callable[[Layers], Layers]
"""Repeats residuals of fewer layers, so that there is one for each block of the denoiser."""


def sum_residuals(passes: Sequence[Pass], places: Mapping[str, RepeatLayers | None]) -> Residuals:
    """Sum the residuals of all control nets at each place, for the rows of all passes; {} without control nets.

    Args:
        passes: their rows are concatenated, in order.
        places: the names that the denoiser has. The value repeats layers for its blocks there, and is used where
            nets have different numbers of layers; None requires equal numbers.

    Raises:
        UnfitValue: a control net of another denoiser: other places, or other numbers of layers.
    """
    if len({len(p.residuals) for p in passes}) == 1:
        joined = [_unsliced(parts) for parts in zip(*(p.residuals for p in passes), strict=True)]
        whole = [residuals for residuals in joined if residuals is not None]
        if len(whole) == len(joined):
            return _sum_of_nets(whole, places)
    sums = [_sum_of_nets(p.residuals, places) for p in passes]
    return {
        place: tuple(map(torch.cat, zip(*_equal_depths([one[place] for one in sums], place, places), strict=True)))
        for place in sums[0]
    }


def _unsliced(parts: Sequence[Residuals]) -> Residuals | None:
    """The whole of which the parts are slices, if they are all of it, in order. Nothing is then sliced and joined."""
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


def _sum_of_nets(residuals: Sequence[Residuals], places: Mapping[str, RepeatLayers | None]) -> dict[str, Layers]:
    by_place: dict[str, list[Layers]] = {}
    for place, layers in (item for one in residuals for item in one.items()):
        if place not in places:
            raise UnfitValue(
                f"Needs residuals at {', '.join(places) or 'no place'}, got some at {place!r}: the control net was "
                "made for another family."
            )
        by_place.setdefault(place, []).append(layers)
    return {
        place: tuple(reduce(add, layer) for layer in zip(*_equal_depths(layers, place, places), strict=True))
        for place, layers in by_place.items()
    }


def _equal_depths(several: Sequence[Layers], place: str, places: Mapping[str, RepeatLayers | None]) -> Sequence[Layers]:
    """The residuals of several nets or passes at a place, with equal numbers of layers."""
    counts = [len(layers) for layers in several]
    if len(set(counts)) == 1:
        return several
    if (repeat := places[place]) is None:
        raise UnfitValue(
            f"Control nets need equal numbers of layers at {place!r}, got {' and '.join(map(str, counts))}: they were "
            "made for different denoisers."
        )
    return [repeat(layers) for layers in several]


PredictFunction = Callable[[Sequence[Pass]], Sequence[Tensor]]
Predict = Annotated[PredictFunction, Port("predict", space=ANY_SPACE, family=Conditioning)]
"""The denoiser as a function: one prediction for each pass, in order. It decides which passes share a forward."""


def predict_each(
    predict: Predict,
    passes: Sequence[Pass],
    split: Callable[[Pass], Sequence[Pass]],
    join: Callable[[Sequence[Tensor]], Tensor],
) -> Sequence[Tensor]:
    """Split each pass into several, such as regions or tiles, predict all in one call, and join their predictions."""
    groups = [split(p) for p in passes]
    predictions = iter(predict([p for group in groups for p in group]))
    return [join([next(predictions) for _ in group]) for group in groups]
