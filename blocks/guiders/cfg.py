"""Classifier-free guidance (Ho and Salimans 2022)."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict
from ...graph import Block, knob
from .files import Published
from .terms import Guided, Part, Scale, ask_both, ask_one, is_on, leaned, rescaled


class ClassifierFreeGuidance(Published, Block):
    """Lean away from the negative prompt: negative + scale * (positive - negative).

    A scale of 1 is the positive prediction, and asks no second pass; nor does a step outside `start` to `stop`.
    `use_original_formulation` is the paper's eq. 6, positive + scale * (positive - negative), whose neutral scale is 0.
    """

    guidance_scale: Scale = knob(7.5)
    guidance_rescale: Part = knob(0.0)
    use_original_formulation: bool = False
    start: Part = 0.0
    stop: Part = 1.0
    enabled: bool = True

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if not is_on(self, step):
            return ask_one(predict, latents, step, positive)
        towards, away = ask_both(predict, latents, step, positive, negative)
        guided = leaned(towards, away, self.guidance_scale, self.use_original_formulation)
        return Guided(rescaled(guided, towards, self.guidance_rescale))
