"""Linear multistep method: Crowson, k-diffusion: `lms`; the coefficients are Adams and Bashforth's."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from .base import STEP_ARGUMENT, History
from .betas import BetaSchedule
from .diffusion import AnyPrediction, noise_in
from .multistep import newest
from .schedule import Schedule, Step
from .sigma_scheduler import Curved, SigmaScheduler


@dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(Curved, SigmaScheduler):
    """dx/dsigma through the last turns is a polynomial, which is integrated to the next level. History: derivatives."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"
    order: int = field(default=4, metadata=STEP_ARGUMENT)

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        return self._schedule(*self._plan(n, timesteps, sigmas))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        derivative = noise_in(self.prediction_type, sample, prediction.float(), step.level)
        derivatives = newest((*history, derivative), self.order)
        sigmas = step.schedule.sigmas[step.index + 1 - len(derivatives) : step.index + 1]
        for weight, slope in zip(adams(sigmas, step.next_sigma), derivatives, strict=True):
            sample = sample + weight * slope
        return sample, newest(derivatives, self.order - 1)


def adams(nodes: Sequence[float], end: float) -> list[float]:
    """Weights that integrate the polynomial through values at `nodes` from the last node to `end`.

    >>> [round(w * 12, 6) for w in adams([0.0, 1.0, 2.0], 3.0)]
    [5.0, -16.0, 23.0]
    """
    weights: list[float] = []
    for own in nodes:
        others = [other for other in nodes if other != own]
        whole = np.atleast_1d(np.poly(others)) / np.prod([own - other for other in others])
        integral = np.polyint(whole)
        weights.append(float(np.polyval(integral, end) - np.polyval(integral, nodes[-1])))
    return weights
