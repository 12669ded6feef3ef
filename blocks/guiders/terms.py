"""What guiders have in common: when they are on, how they lean, and how the answer is brought back in range."""

import math
from typing import Annotated, NamedTuple, Protocol

import torch
from annotated_types import MinLen
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Number, Pass, Predict, Prediction
from ...registry import counted

Scale = Number | Annotated[tuple[Number, ...], MinLen(1)]
"""One number, or one for each picture; for fewer numbers than pictures, each serves as many in a row."""


class Guided(NamedTuple):
    prediction: Prediction


class Common(Protocol):
    """The fields that guiders which lean away from something have."""

    @property
    def guidance_scale(self) -> Scale: ...
    @property
    def guidance_rescale(self) -> float: ...
    @property
    def use_original_formulation(self) -> bool: ...
    @property
    def start(self) -> float: ...
    @property
    def stop(self) -> float: ...
    @property
    def enabled(self) -> bool: ...


def place_of(step: Step) -> tuple[int, int]:
    """Which whole step this turn belongs to, and how many the whole schedule has."""
    places = step.schedule.whole_step_of
    return places[step.index], places[-1] + 1


def within(step: Step, start: float, stop: float) -> bool:
    """Whether guidance is on in this step: from `start` up to but not at `stop`, as parts of the whole steps."""
    place, whole = place_of(step)
    return int(start * whole) <= place < int(stop * whole)


def perturbing(step: Step, start: float, stop: float) -> bool:
    """Whether perturbation is on in this step: the whole steps from `start` up to but not at `stop`.

    A step that begins before `start` does not count, so that the published 0.01 leaves out the first step, and 0 does
    not. An interval is at least one step, so that the published end at 0.2 means something in 4 steps too.
    """
    place, whole = place_of(step)
    first = min(math.ceil(start * whole - 1e-9), whole - 1)
    return start < stop and first <= place < max(int(stop * whole), first + 1)


def is_neutral(scale: Scale, original: bool = False) -> bool:
    """Whether guidance of this scale is the positive prediction."""
    nothing = 0.0 if original else 1.0
    return scale == nothing or (isinstance(scale, tuple) and all(s == nothing for s in scale))


def is_off(guider: Common) -> bool:
    """Whether a guider needs its second prediction in no step of any run."""
    neutral = is_neutral(guider.guidance_scale, guider.use_original_formulation)
    return not guider.enabled or neutral or guider.start >= guider.stop


def is_on(guider: Common, step: Step) -> bool:
    """Whether a guider needs its second prediction in this step."""
    return not is_off(guider) and within(step, guider.start, guider.stop)


def per_row(scale: Scale, like: Tensor) -> float | Tensor:
    """The scale, to be multiplied with `like` (rows first). ValueError where the rows are no multiple of the scales."""
    if isinstance(scale, int | float):
        return scale
    rows = len(like)
    if not scale or rows % len(scale):
        told = f"There are {counted(len(scale), 'guidance scale')} for {counted(rows, 'picture')}"
        raise ValueError(f"{told}. Give one, or one for each.")
    each = torch.tensor(scale, dtype=like.dtype).repeat_interleave(rows // len(scale))
    return each.reshape(-1, *[1] * (like.ndim - 1)).to(like.device, non_blocking=True)


def leaned(towards: Tensor, away: Tensor, scale: Scale, original: bool = False) -> Tensor:
    """Lean from one prediction to another: away + scale (towards - away), or towards + scale (towards - away)."""
    return (towards if original else away) + per_row(scale, towards) * (towards - away)


def rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Bring the guided prediction back to the spread of the positive one (Lin et al. 2023, eq. 15 and 16)."""
    if not amount:
        return guided
    dims = list(range(1, positive.ndim))
    whole = guided * (positive.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return amount * whole + (1 - amount) * guided


def ask_one(predict: Predict, latents: Latents, step: Step, positive: Conditioning) -> Guided:
    """The positive prediction, unguided."""
    return Guided(predict([Pass(latents, step, positive)])[0])


def ask_both(
    predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
) -> tuple[Tensor, Tensor]:
    """The positive prediction and the negative one."""
    away, towards = predict([Pass(latents, step, negative, "negative"), Pass(latents, step, positive)])
    return towards, away


def precise(x: Tensor) -> Tensor:
    """In double precision, where the device has it: a projection is a difference of large numbers."""
    return x.double() if x.device.type not in ("mps", "npu") else x.float()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows, shaped to be multiplied with them."""
    return (a * b).sum(list(range(1, a.ndim)), keepdim=True)


def parallel_part(x: Tensor, along: Tensor, dims: tuple[int, ...] | None = None, *, double: bool = True) -> Tensor:
    """The part of `x` that points along another, over all dimensions but the rows, or over `dims`."""
    over = list(range(1, x.ndim)) if dims is None else list(dims)
    a, b = (precise(x), precise(along)) if double else (x, along)
    squared = (b * b).sum(over, keepdim=True).clamp_min(1e-24)
    return ((a * b).sum(over, keepdim=True) / squared * b).to(x.dtype)
