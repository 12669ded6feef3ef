"""Tangential classifier-free guidance (Kwon et al. 2025)."""

import torch
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict, ZeroToOne
from ...graph import Block, knob
from .files import Published
from .none import NoGuidance
from .terms import Guided, Scale, ask_both, ask_one, inner, is_off, is_on, leaned, precise, rescaled


class TangentialClassifierFreeGuidance(Published, Block):
    """Classifier-free guidance with the negative prediction laid onto the main direction that both share."""

    guidance_scale: Scale = knob(7.5)
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
        guided = leaned(towards, on_main_direction(away, towards), self.guidance_scale, self.use_original_formulation)
        return Guided(rescaled(guided, towards, self.guidance_rescale))

    def simplified(self) -> NoGuidance | None:
        return NoGuidance() if is_off(self) else None


def on_main_direction(x: Tensor, other: Tensor) -> Tensor:
    """x projected onto the first right-singular vector of the two rows [other, x].

    That vector is a turn of the two by the angle that makes their 2x2 inner products diagonal: in closed form, where a
    singular value decomposition of two rows as long as a picture would wait for the device.
    """
    u, c = precise(x), precise(other)
    cc, cu, uu = inner(c, c), inner(c, u), inner(u, u)
    angle = torch.atan2(2 * cu, cc - uu) / 2
    main = torch.cos(angle) * c + torch.sin(angle) * u
    return (inner(u, main) / inner(main, main).clamp_min(1e-30) * main).to(x.dtype)
