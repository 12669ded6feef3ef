"""Linear multistep method: Crowson, k-diffusion: `lms`; the coefficients are Adams and Bashforth's."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from .diffusion import DiffusionScheduler
from .history import History, newest
from .keys import (
    OWN_KEY,
    STEP_ARGUMENT,
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    SpacingKeys,
    UnpublishedZeroSNRKeys,
)
from .predictions import AnyPrediction
from .request import Request
from .schedule import Schedule, Step
from .sigma_levels import SigmaLevels


@dataclass(frozen=True, kw_only=True)
class LMSDiscreteScheduler(DiffusionScheduler, SpacingKeys, CurveKeys, CustomaryCurveKeys, UnpublishedZeroSNRKeys):
    """Linear multistep (Crowson, k-diffusion: `lms`).

    A polynomial through the last derivatives dx/dsigma is integrated to the next level: x' = x + sum_k w_k d_k.
    History: derivatives, oldest first.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"
    order: Annotated[int, Ge(1), Le(9)] = field(default=4, metadata=STEP_ARGUMENT)
    """The number of derivatives that are combined, with that of this step."""
    published_restart: bool = field(default=False, metadata=OWN_KEY)
    """In a run that starts in the middle, weigh the first derivatives as if there were earlier ones, as published."""

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        planner = SigmaLevels.of(self, self.training)
        return planner.schedule(planner(request))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Adams and Bashforth's method on uneven levels."""
        sample = sample.float()
        derivatives = newest((*history, self.noise_in(sample, prediction, step)), self.order)
        count = min(step.index + 1, self.order) if self.published_restart else len(derivatives)
        sigmas = step.schedule.sigmas[step.index + 1 - count : step.index + 1]
        weights = adams(sigmas, step.next_sigma)[-len(derivatives) :]
        for weight, derivative in zip(weights, derivatives, strict=True):
            sample = sample + weight * derivative
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
