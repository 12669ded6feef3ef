"""How much the loss of each row counts, by the noise of its step."""

import math
from abc import abstractmethod
from typing import Annotated, NamedTuple

from annotated_types import Gt
from jaxtyping import Float
from torch import Tensor, tensor

from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Step
from ...components.schedulers.training_schedule import prediction_kind
from ...graph import Block, Port, component, knob
from .timesteps import RowSteps

RowWeights = Annotated[Float[Tensor, " rows"], Port("row_weights")]
"""A factor of the loss for each row."""


class Weights(NamedTuple):
    """A factor of the loss for each row: (rows,), float32."""

    weights: RowWeights


class WeightRows(Block, abstract=True):
    """Base of blocks that weight each row by its step."""

    @abstractmethod
    def weight(self, step: Step) -> float:
        """The factor of the loss at a step."""
        ...

    def __call__(self, row_steps: RowSteps) -> Weights:
        return Weights(tensor([self.weight(step) for step in row_steps]))


class WeightEqually(WeightRows):
    """Weight all rows by 1."""

    def weight(self, step: Step) -> float:
        """1."""
        return 1.0


class WeightByMinSNR(WeightRows):
    """Weight by min(SNR, gamma), on the scale of the clean latents (Hang et al. 2023, section 3.4).

    In terms of the prediction that is min(SNR, gamma) / SNR for epsilon, and min(SNR, gamma) / (SNR + 1) for v. It is
    finite without signal. gamma: the paper uses 5.

    Raises:
        ConfigError: flow matching, for which it is not defined. Use another weight.
    """

    scheduler: Scheduler = component()
    snr_gamma: Annotated[float, Gt(0)] = knob(5.0)

    def weight(self, step: Step) -> float:
        """The factor of the loss at a step."""
        snr, gamma = signal_to_noise(step), self.snr_gamma
        match prediction_kind(self.scheduler):
            case "epsilon":
                return min(1.0, gamma / snr) if snr else 1.0
            case "v_prediction":
                return min(snr, gamma) / (snr + 1)
            case _:
                return min(snr, gamma)


class WeightBySigma(WeightRows):
    """Weight by 1 / sigma^2: the `sigma_sqrt` of the scripts for flow matching (Esser et al. 2024)."""

    def weight(self, step: Step) -> float:
        """sigma to the power of -2."""
        return step.level.sigma**-2.0


class WeightByCosMap(WeightRows):
    """Weight by the density of CosMap, 2 / (pi (1 - 2 sigma + 2 sigma^2)) (Esser et al. 2024, section 3.1)."""

    def weight(self, step: Step) -> float:
        """The density at sigma."""
        sigma = step.level.sigma
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))


def signal_to_noise(step: Step) -> float:
    """(alpha / sigma)^2 of a step."""
    alpha, sigma = step.level
    return (alpha / sigma) ** 2 if sigma else math.inf
