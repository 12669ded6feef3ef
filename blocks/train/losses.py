"""The loss: how far predictions are from their targets."""

from abc import abstractmethod
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from ...components.types import ImageLatents, LatentMask, Mask, Number, Prediction, ZeroToOne
from ...graph import Block, knob
from .weights import RowWeights


class Loss(NamedTuple):
    """loss: what training makes smaller, (). losses: the weighted loss of each row (rows,), without gradients."""

    loss: Float[Tensor, ""]
    losses: Float[Tensor, " rows"]


class CompareRows(Block, abstract=True):
    """Base of losses that compare numbers one by one.

    weights: a factor for each row; None is 1. loss_mask: (rows, 1, height, width), at the size of the latents: how much
    each number counts; None counts all alike. The loss of a row is a mean over the numbers that count, times the row's
    weight. The loss is the mean over rows.
    """

    @abstractmethod
    def compared(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The loss of each number."""
        ...

    def __call__(
        self,
        prediction: Prediction,
        target: Prediction,
        weights: RowWeights | None = None,
        loss_mask: LatentMask | None = None,
    ) -> Loss:
        each = self.compared(prediction.float(), target.float())
        if loss_mask is None:
            rows = each.flatten(1).mean(1)
        else:
            counted = loss_mask.to(each).expand_as(each).flatten(1)
            rows = (each.flatten(1) * counted).sum(1) / counted.sum(1).clamp(min=1e-8)
        if weights is not None:
            rows = rows * weights.to(rows.device)
        return Loss(rows.mean(), rows.detach())


class MeanSquaredError(CompareRows):
    """The mean of squared differences (Ho et al. 2020, equation 14)."""

    def compared(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(prediction - target)^2."""
        return (prediction - target) ** 2


class MeanAbsoluteError(CompareRows):
    """The mean of absolute differences."""

    def compared(self, prediction: Tensor, target: Tensor) -> Tensor:
        """|prediction - target|."""
        return (prediction - target).abs()


class PseudoHuber(CompareRows):
    """The pseudo-Huber loss sqrt(d^2 + c^2) - c (Song and Dhariwal 2023, equation 7). huber_c: c."""

    huber_c: Number = knob(0.001)

    def compared(self, prediction: Tensor, target: Tensor) -> Tensor:
        """sqrt(d^2 + c^2) - c."""
        return ((prediction - target) ** 2 + self.huber_c**2).sqrt() - self.huber_c


class LossMask(NamedTuple):
    """Where the loss counts, at the size of the latents."""

    loss_mask: LatentMask


class ShrinkLossMask(Block):
    """Resize masks of pictures to the latents: white counts.

    unmasked_weight: black counts by it, from 0 to 1.
    """

    unmasked_weight: ZeroToOne = knob(0.0)

    def __call__(self, mask: Mask, image_latents: ImageLatents) -> LossMask:
        shrunk = interpolate(mask.to(image_latents), size=image_latents.shape[2:], mode="area")
        return LossMask(self.unmasked_weight + (1 - self.unmasked_weight) * shrunk)
