"""Classifier-free guidance (Ho and Salimans 2022)."""

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .none import NoGuidance
from .terms import Guided, Scale, ask_both, ask_one, is_neutral, is_off, is_on, leaned, rescaled


class ClassifierFreeGuidance(Published, Block):
    """Lean away from the negative prompt: negative + scale * (positive - negative).

    A scale of 1 is the positive prediction, and asks no second pass; nor does a step outside `start` to `stop`. A scale
    of 0 does the same: by the formula it would be the negative prediction, but those who write it mean "no guidance"
    (cards of distilled checkpoints, and the classic pipelines of diffusers).
    `use_original_formulation` is the paper's eq. 6, positive + scale * (positive - negative), whose neutral scale is 0.
    """

    guidance_scale: Scale = knob(7.5)
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if self.simplified() is not None or not is_on(self, step):
            return ask_one(predict, latents, step, positive)
        towards, away = ask_both(predict, latents, step, positive, negative)
        guided = leaned(towards, away, self._scale, self.use_original_formulation)
        return Guided(rescaled(guided, towards, self.guidance_rescale))

    def simplified(self) -> NoGuidance | None:
        neutral = is_neutral(self._scale, self.use_original_formulation)
        return NoGuidance() if neutral or is_off(self) else None

    @property
    def _scale(self) -> Scale:
        """The scale, with 1 for 0 but where 0 is the paper's own neutral scale."""
        scale = self.guidance_scale
        if self.use_original_formulation:
            return scale
        return tuple(s or 1.0 for s in scale) if isinstance(scale, tuple) else scale or 1.0
