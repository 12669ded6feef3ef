"""MAMBO-G: magnitude-aware mitigation for boosted guidance (Zhu et al. 2025)."""

import torch

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .none import NoGuidance
from .terms import Guided, Scale, ask_both, ask_one, inner, is_off, is_on, per_row, rescaled


class MagnitudeAwareGuidance(Published, Block):
    """Classifier-free guidance that is damped the more, the larger it is beside the negative prediction.

    What the scale has beyond its neutral value shrinks by exp(-alpha |positive - negative| / |negative|).
    """

    guidance_scale: Scale = knob(10.0)
    alpha: float = knob(8.0)
    guidance_rescale: ZeroToOne = knob(0.0)
    use_original_formulation: bool = False
    start: ZeroToOne = 0.0
    stop: ZeroToOne = 1.0
    enabled: bool = True

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if not is_on(self, step):
            return ask_one(predict, latents, step, positive)
        towards, away = ask_both(predict, latents, step, positive, negative)
        shift, neutral = towards - away, 0.0 if self.use_original_formulation else 1.0
        damping = torch.exp(-self.alpha * (inner(shift, shift) / inner(away, away)).sqrt())
        scale = neutral + (per_row(self.guidance_scale, towards) - neutral) * damping
        guided = (towards if self.use_original_formulation else away) + scale * shift
        return Guided(rescaled(guided, towards, self.guidance_rescale))

    def simplified(self) -> NoGuidance | None:
        return NoGuidance() if is_off(self) else None
