"""How much the loss of each row counts, by the noise of its step."""

import math
from abc import abstractmethod
from math import sqrt
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt
from jaxtyping import Bool, Float
from torch import Tensor, tensor

from ...components.schedulers import Scheduler
from ...components.schedulers.schedule import Step
from ...components.schedulers.training_schedule import prediction_kind
from ...components.types import Number
from ...graph import Block, Port, component, knob
from ...graph.errors import UnfitValue
from ...registry import counted
from .timesteps import RowSteps

RowWeights = Annotated[Float[Tensor, " rows"], Port("row_weights")]
"""A factor of the loss for each row."""


IsPrior = Annotated[Bool[Tensor, " rows"], Port("is_prior")]
"""Which rows are pictures of the class, and not of the subject."""


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
            case "flow":  # an error of the velocity is one of the clean latents, divided by sigma
                return min(snr, gamma) * step.level.sigma**2
            case _:
                return min(snr, gamma)


class WeightDebiased(WeightRows):
    """Weight by 1 / sqrt(SNR) on the scale of the noise, so that noisy steps count as they should (Yu et al. 2023).

    In terms of the prediction that is 1 / sqrt(SNR) for epsilon, sqrt(SNR) / (SNR + 1) for v, sqrt(SNR) for the sample,
    and alpha sigma for flow. least_snr: steps with less signal have its weight, so that weights are finite.
    """

    scheduler: Scheduler = component()
    least_snr: Annotated[float, Gt(0)] = knob(1e-3)

    def weight(self, step: Step) -> float:
        """The factor of the loss at a step."""
        root, (alpha, sigma) = sqrt(signal_to_noise(step)), step.level
        match prediction_kind(self.scheduler):
            case "epsilon":
                return 1 / max(root, sqrt(self.least_snr))
            case "v_prediction":
                return root / (root**2 + 1)
            case "flow":
                return alpha * sigma
            case _:
                return root


class WeightBySNR(WeightRows):
    """Weight by the SNR, (alpha / sigma)^2: an error of the clean sample then counts as that of the noise does."""

    def weight(self, step: Step) -> float:
        """The SNR at a step."""
        return signal_to_noise(step)


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


class WeightPrior(Block):
    """Weight pictures of a subject, and pictures of its class that keep the rest as it is (Ruiz et al. 2022, sec. 3.2).

    A batch has as many of both, in any order. So that the loss is the mean over the subject's rows plus `prior_weight`
    times the mean over those of the class, each row counts twice. prior_weight: lambda of the paper's equation 2.

    Raises:
        UnfitValue: another number of rows.
    """

    prior_weight: Number = knob(1.0)

    def __call__(self, weights: RowWeights, is_prior: IsPrior) -> Weights:
        if len(is_prior) != len(weights):
            raise UnfitValue(f"is_prior has {counted(len(is_prior), 'row')} for {counted(len(weights), 'picture')}.")
        return Weights(weights * torch.where(is_prior.to(weights.device), 2 * self.prior_weight, 2.0))


def signal_to_noise(step: Step) -> float:
    """(alpha / sigma)^2 of a step."""
    alpha, sigma = step.level
    return (alpha / sigma) ** 2 if sigma else math.inf
