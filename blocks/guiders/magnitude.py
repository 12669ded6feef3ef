"""MAMBO-G: magnitude-aware mitigation for boosted guidance (Zhu et al. 2025)."""

import torch
from torch import Tensor

from ...graph import knob
from .formulas import Scale, inner, per_row
from .guider import NegativePromptGuider


class MagnitudeAwareGuidance(NegativePromptGuider):
    """Classifier-free guidance that is damped where it is large compared with the negative prediction.

    What the scale has beyond its neutral value is multiplied by exp(-alpha |positive - negative| / |negative|), with
    the norms of each row. alpha: 0 is plain guidance; the larger, the stronger the damping.
    """

    guidance_scale: Scale = knob(10.0)
    alpha: float = knob(8.0)

    def combine(self, pos: Tensor, neg: Tensor) -> Tensor:
        """neg + damped scale (pos - neg)."""
        shift, neutral = pos - neg, 0.0 if self.use_original_formulation else 1.0
        damping = torch.exp(-self.alpha * (inner(shift, shift) / inner(neg, neg)).sqrt())
        scale = neutral + (per_row(self.guidance_scale, pos) - neutral) * damping
        return (pos if self.use_original_formulation else neg) + scale * shift
