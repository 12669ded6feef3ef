"""CFG-Zero* (Fan et al. 2025)."""

import torch
from torch import Tensor

from ...components.schedulers.schedule import Step
from ...components.types import Conditioning, Latents, Predict
from ...graph import Block
from .formulas import inner
from .guider import NegativePromptGuider
from .intervals import places
from .none import WithoutNegative
from .predictions import Guided


class ClassifierFreeZeroStarGuidance(NegativePromptGuider):
    """Classifier-free guidance with the negative prediction scaled to fit the positive one best, by least squares.

    For flow matching. zero_init_steps: in so many whole steps at the beginning of the schedule the prediction is zero,
    and no pass is made.
    """

    zero_init_steps: int = 1

    def __call__(
        self, predict: Predict, latents: Latents, step: Step, positive: Conditioning, negative: Conditioning
    ) -> Guided:
        if self.enabled and places(step)[0] < self.zero_init_steps:
            return Guided(torch.zeros_like(latents))
        return super().__call__(predict, latents, step, positive, negative)

    def combine(self, pos: Tensor, neg: Tensor) -> Tensor:
        """s neg + scale (pos - s neg), with s = <pos, neg> / |neg|^2."""
        return self.guided(pos, neg * (inner(pos, neg) / (inner(neg, neg) + 1e-8)))

    def simplified(self) -> Block | None:
        """Without guidance, the steps of zeros stay."""
        less = super().simplified()
        return WithoutNegative(guider=self) if less and self.enabled and self.zero_init_steps > 0 else less
