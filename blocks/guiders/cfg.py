"""Classifier-free guidance (Ho and Salimans 2022)."""

from typing import Annotated, NamedTuple

from annotated_types import Ge, Le
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Pass, Predict, Prediction
from ...graph import Block, knob

Part = Annotated[float, Ge(0), Le(1)]


class Guided(NamedTuple):
    prediction: Prediction


def within(step: Step, start: float, stop: float) -> bool:
    """Whether guidance is on in this step: from `start` up to but not at `stop`, as parts of the whole steps."""
    whole = step.schedule.places[-1] + 1
    return int(start * whole) <= step.schedule.places[step.index] < int(stop * whole)


def rescaled(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Bring the guided prediction back to the spread of the positive one (Lin et al. 2023, eq. 15 and 16)."""
    dims = list(range(1, positive.ndim))
    whole = guided * (positive.std(dims, keepdim=True) / guided.std(dims, keepdim=True))
    return amount * whole + (1 - amount) * guided


class ClassifierFreeGuidance(Block):
    """Lean away from the negative prompt: negative + scale * (positive - negative).

    A scale of 1 is the positive prediction, and asks no second pass; nor does a step outside `start` to `stop`.
    `use_original_formulation` is the paper's eq. 6, positive + scale * (positive - negative), whose neutral scale is 0.
    """

    guidance_scale: float = knob(7.5)
    guidance_rescale: Part = knob(0.0)
    use_original_formulation: bool = False
    start: Part = 0.0
    stop: Part = 1.0
    enabled: bool = True

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        neutral = 0.0 if self.use_original_formulation else 1.0
        asked = Pass(latents, step, positive)
        if not self.enabled or self.guidance_scale == neutral or not within(step, self.start, self.stop):
            return Guided(predict([asked])[0])
        away, towards = predict([Pass(latents, step, negative, "negative"), asked])
        base = towards if self.use_original_formulation else away
        guided = base + self.guidance_scale * (towards - away)
        return Guided(rescaled(guided, towards, self.guidance_rescale) if self.guidance_rescale else guided)
