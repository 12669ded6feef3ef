"""Tangential classifier-free guidance (Kwon et al. 2025)."""

import torch
from torch import Tensor

from .formulas import inner, precise
from .guider import NegativePromptGuider


class TangentialClassifierFreeGuidance(NegativePromptGuider):
    """Classifier-free guidance with the negative prediction projected onto the main direction of both predictions.

    The main direction is the first right-singular vector of the two (section 3 of the paper).
    """

    def combine(self, pos: Tensor, neg: Tensor) -> Tensor:
        """neg' + scale (pos - neg'), with neg' the projection of neg."""
        return self.guided(pos, on_main_direction(neg, pos))


def on_main_direction(x: Tensor, other: Tensor) -> Tensor:
    """x projected onto the first right-singular vector of the two rows [other, x].

    The vector is a rotation of the two, by the angle that makes their 2x2 inner products diagonal. This is the closed
    form: a singular value decomposition of two rows as long as a picture would wait for the device.
    """
    u, c = precise(x), precise(other)
    cc, cu, uu = inner(c, c), inner(c, u), inner(u, u)
    angle = torch.atan2(2 * cu, cc - uu) / 2
    main = torch.cos(angle) * c + torch.sin(angle) * u
    return (inner(u, main) / inner(main, main).clamp_min(1e-30) * main).to(x.dtype)
