"""Adaptive projected guidance (Sadat et al. 2024), and its mix with classifier-free guidance."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Number, Predict, Prediction, ZeroToOne
from ...graph import Block, Memory, knob
from .files import Published
from .none import NoGuidance
from .terms import (
    Scale,
    ask_both,
    ask_one,
    is_neutral,
    is_off,
    is_on,
    leaned,
    parallel_part,
    per_row,
    place_of,
    rescaled,
)

Average = tuple[Tensor, ...]
"""The running average of what guidance adds; empty before there is one."""


class GuidedOn(NamedTuple):
    prediction: Prediction
    average: Memory[Average]


class AdaptiveProjectedGuidance(Published, Block):
    """Guide by what is new: the part of the guidance that lies along the positive prediction counts `eta`.

    Before, guidance is averaged over the turns with a `momentum` (negative ones push on), and kept no longer than
    `rescale`, both over all dimensions but the rows or over `norm_dim`.
    """

    guidance_scale: Scale = knob(7.5)
    adaptive_projected_guidance_momentum: float | None = None
    adaptive_projected_guidance_rescale: float = 15.0
    adaptive_projected_guidance_norm_dim: int | tuple[int, ...] | None = None
    eta: Number = knob(1.0)
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __call__(
        self,
        predict: Predict,
        latents: Latents,
        step: Step,
        positive: Conditioning,
        negative: Conditioning,
        average: Memory[Average] = (),
    ) -> GuidedOn:
        if not is_on(self, step):
            return GuidedOn(ask_one(predict, latents, step, positive).prediction, average)
        towards, away = ask_both(predict, latents, step, positive, negative)
        shift, average = averaged(towards - away, average, self.adaptive_projected_guidance_momentum)
        dims = self.adaptive_projected_guidance_norm_dim
        dims = (dims,) if isinstance(dims, int) else dims
        shift = projected(shift, towards, self.adaptive_projected_guidance_rescale, self.eta, dims)
        base = towards if self.use_original_formulation else away
        guided = base + per_row(self.guidance_scale, towards) * shift
        return GuidedOn(rescaled(guided, towards, self.guidance_rescale), average)

    def simplified(self) -> NoGuidance | None:
        return NoGuidance() if is_off(self) else None


class AdaptiveProjectedMixGuidance(Published, Block):
    """Classifier-free guidance up to the step `start_step`, and adaptive projected guidance after it.

    The average is kept from the first step on.
    """

    guidance_scale: Scale = knob(3.5)
    guidance_rescale: ZeroToOne = knob(0.0)
    adaptive_projected_guidance_scale: Scale = knob(10.0)
    adaptive_projected_guidance_momentum: float | None = -0.5
    adaptive_projected_guidance_rescale: float = 10.0
    eta: Number = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    adaptive_projected_guidance_start_step: int = 5
    enabled: bool = True

    def __call__(
        self,
        predict: Predict,
        latents: Latents,
        step: Step,
        positive: Conditioning,
        negative: Conditioning,
        average: Memory[Average] = (),
    ) -> GuidedOn:
        if not is_on(self, step):
            return GuidedOn(ask_one(predict, latents, step, positive).prediction, average)
        towards, away = ask_both(predict, latents, step, positive, negative)
        shift, average = averaged(towards - away, average, self.adaptive_projected_guidance_momentum)
        scale, original = self.adaptive_projected_guidance_scale, self.use_original_formulation
        if place_of(step)[0] <= self.adaptive_projected_guidance_start_step or is_neutral(scale, original):
            guided = leaned(towards, away, self.guidance_scale, original)
        else:
            shift = projected(shift, towards, self.adaptive_projected_guidance_rescale, self.eta)
            guided = (towards if original else away) + per_row(scale, towards) * shift
        return GuidedOn(rescaled(guided, towards, self.guidance_rescale), average)

    def simplified(self) -> NoGuidance | None:
        return NoGuidance() if is_off(self) else None


def averaged(shift: Tensor, average: Average, momentum: float | None) -> tuple[Tensor, Average]:
    """What guidance adds with its past, and what to remember of it."""
    if momentum is None:
        return shift, average
    for past in average:
        shift = shift + momentum * past
    return shift, (shift,)


def projected(
    shift: Tensor, towards: Tensor, longest: float, eta: float, dims: tuple[int, ...] | None = None
) -> Tensor:
    """The shift, no longer than `longest` (0: any length), with `eta` of its part along `towards`."""
    if longest > 0:
        over = list(range(1, shift.ndim)) if dims is None else list(dims)
        length = (shift * shift).sum(over, keepdim=True).sqrt()
        shift = shift * torch.clamp(longest / length, max=1.0)
    along = parallel_part(shift, towards, dims)
    return shift - along + eta * along
