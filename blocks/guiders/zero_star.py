"""CFG-Zero* (Fan et al. 2025)."""

import torch

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .none import NoGuidance, WithoutNegative
from .terms import Guided, Scale, ask_both, ask_one, inner, is_off, is_on, leaned, place_of, rescaled


class ClassifierFreeZeroStarGuidance(Published, Block):
    """Classifier-free guidance with the negative prediction scaled to fit the positive one best, by least squares.

    In the first `zero_init_steps` whole steps of the schedule the prediction is zero, and nothing is asked.
    """

    guidance_scale: Scale = knob(7.5)
    zero_init_steps: int = 1
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if self.enabled and place_of(step)[0] < self.zero_init_steps:
            return Guided(torch.zeros_like(latents))
        if not is_on(self, step):
            return ask_one(predict, latents, step, positive)
        towards, away = ask_both(predict, latents, step, positive, negative)
        away = away * (inner(towards, away) / (inner(away, away) + 1e-8))
        guided = leaned(towards, away, self.guidance_scale, self.use_original_formulation)
        return Guided(rescaled(guided, towards, self.guidance_rescale))

    def simplified(self) -> Block | None:
        if not is_off(self):
            return None
        return WithoutNegative(guider=self) if self.enabled and self.zero_init_steps > 0 else NoGuidance()
