"""Adaptive projected guidance (Sadat et al. 2024), and its mix with classifier-free guidance."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Number, Predict, Prediction
from ...graph import Memory, knob
from .formulas import Scale, extrapolated_by, is_neutral, parallel_part
from .guider import Guider
from .intervals import places
from .predictions import predict_both, predict_positive

Average = tuple[Tensor, ...]
"""The running average of positive - negative; empty before the first step."""


class GuidedWithAverage(NamedTuple):
    """The guided prediction, and the memory of the guider."""

    prediction: Prediction
    average: Memory[Average]


class ProjectedGuider(Guider, abstract=True):
    """A guider that averages the guidance over the steps, limits its length, and projects it.

    adaptive_projected_guidance_momentum: the weight of past steps in the average; a negative one speeds up, None is no
    average. adaptive_projected_guidance_rescale: the largest length of a row's guidance; 0 is no limit. eta: the weight
    of the part along the positive prediction, which oversaturates; 1 keeps it, 0 drops it.
    """

    adaptive_projected_guidance_momentum: float | None = None
    adaptive_projected_guidance_rescale: float = 15.0
    eta: Number = knob(1.0)

    def __call__(
        self,
        predict: Predict,
        latents: Latents,
        step: Step,
        positive: Conditioning,
        negative: Conditioning,
        average: Memory[Average] = (),
    ) -> GuidedWithAverage:
        if not self.is_on(step):
            return GuidedWithAverage(predict_positive(predict, latents, step, positive).prediction, average)
        pos, neg = predict_both(predict, latents, step, positive, negative)
        shift, average = averaged(pos - neg, average, self.adaptive_projected_guidance_momentum)
        return GuidedWithAverage(self.rescaled(self.combine(pos, neg, shift, step), pos).prediction, average)

    @abstractmethod
    def combine(self, pos: Tensor, neg: Tensor, shift: Tensor, step: Step) -> Tensor:
        """One prediction of the positive and the negative one; `shift` is their difference with its average."""
        ...

    def projected(self, pos: Tensor, shift: Tensor, scale: Scale, dims: tuple[int, ...] | None) -> Tensor:
        """positive + (scale - 1) shift, with the shift limited and projected (algorithm 1 of the paper)."""
        shift = projected(shift, pos, self.adaptive_projected_guidance_rescale, self.eta, dims)
        return extrapolated_by(pos, shift, scale, self.use_original_formulation)


class AdaptiveProjectedGuidance(ProjectedGuider):
    """Split positive - negative into a part along the positive prediction, which counts `eta`, and the part across.

    adaptive_projected_guidance_norm_dim: the dimensions over which lengths and projections are taken; None is all but
    the rows.
    """

    adaptive_projected_guidance_norm_dim: int | tuple[int, ...] | None = None

    def combine(self, pos: Tensor, neg: Tensor, shift: Tensor, step: Step) -> Tensor:
        """Projected guidance by `guidance_scale`."""
        dims = self.adaptive_projected_guidance_norm_dim
        return self.projected(pos, shift, self.guidance_scale, (dims,) if isinstance(dims, int) else dims)


class AdaptiveProjectedMixGuidance(ProjectedGuider):
    """Classifier-free guidance in the first steps, adaptive projected guidance with a scale of its own after them.

    adaptive_projected_guidance_start_step: the last whole step, from 0, with classifier-free guidance.
    adaptive_projected_guidance_scale: the scale after it, also where `guidance_scale` is neutral. The average is kept
    from the first step on.
    """

    guidance_scale: Scale = knob(3.5)
    adaptive_projected_guidance_scale: Scale = knob(10.0)
    adaptive_projected_guidance_momentum: float | None = -0.5
    adaptive_projected_guidance_rescale: float = 10.0
    eta: Number = knob(0.0)
    adaptive_projected_guidance_start_step: int = 5

    @property
    def is_off(self) -> bool:
        """Whether both scales are neutral, or no step is in the interval."""
        neutral = is_neutral(self.adaptive_projected_guidance_scale, self.use_original_formulation)
        return super().is_off and (neutral or not self.enabled or self.start >= self.stop)

    def combine(self, pos: Tensor, neg: Tensor, shift: Tensor, step: Step) -> Tensor:
        """Classifier-free guidance in the first steps, then projected guidance."""
        if places(step)[0] <= self.adaptive_projected_guidance_start_step:
            return self.guided(pos, neg)
        return self.projected(pos, shift, self.adaptive_projected_guidance_scale, None)


def averaged(shift: Tensor, average: Average, momentum: float | None) -> tuple[Tensor, Average]:
    """The shift with its running average added (equation 8), and the new average."""
    if momentum is None:
        return shift, average
    for past in average:
        shift = shift + momentum * past
    return shift, (shift,)


def projected(
    shift: Tensor, positive: Tensor, longest: float, eta: float, dims: tuple[int, ...] | None = None
) -> Tensor:
    """The shift, no longer than `longest` (0: any length), with `eta` of its part along `positive`."""
    if longest > 0:
        over = list(range(1, shift.ndim)) if dims is None else list(dims)
        length = (shift * shift).sum(over, keepdim=True).sqrt()
        shift = shift * torch.clamp(longest / length, max=1.0)
    along = parallel_part(shift, positive, dims)
    return shift - along + eta * along
