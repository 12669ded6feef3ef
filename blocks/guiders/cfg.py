"""Classifier-free guidance (Ho and Salimans 2022)."""

from torch import Tensor

from .formulas import Scale
from .guider import NegativePromptGuider


class ClassifierFreeGuidance(NegativePromptGuider):
    """Move away from the negative prompt: negative + scale (positive - negative).

    A scale of 1 is the positive prediction, from one pass. So is a scale of 0: by the formula it would be the negative
    prediction, but those who write 0 mean "no guidance" (cards of distilled checkpoints, and the classic pipelines of
    diffusers). `use_original_formulation` is equation 6 of the paper, positive + scale (positive - negative), whose
    neutral scale is 0.
    """

    @property
    def scale(self) -> Scale:
        """The scale, with 1 for 0, except where 0 is the paper's own neutral scale."""
        scale = self.guidance_scale
        if self.use_original_formulation:
            return scale
        return tuple(s or 1.0 for s in scale) if isinstance(scale, tuple) else scale or 1.0

    def combine(self, pos: Tensor, neg: Tensor) -> Tensor:
        """neg + scale (pos - neg)."""
        return self.guided(pos, neg)
