"""Diffusion exponential integrator sampler: Zhang and Chen 2022, with polynomials in log rho."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .base import History
from .betas import Floats
from .lambdas import move, phis, transfer
from .multistep import LambdaScheduler, differences, lambdas_behind, newest
from .schedule import Step


@dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(LambdaScheduler):
    """tAB-DEIS of Zhang and Chen 2022, equation 15, in log rho = -lambda.

    There it is DPM-Solver for noise with its integrals taken exactly. The run ends at the model's least noise, or, on a
    curve, with a last turn that stays where it is, as published. History: the last answers, oldest first.
    """

    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"

    def _final(self, levels: Floats) -> float:
        return float(levels[-1] if self._curves() or self.use_flow_sigmas else self.training_sigmas[0])

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        outputs = newest((*history, self._noise_in(sample, prediction, step)), self.solver_order)
        order, by = self._order(step, history), transfer("dpmsolver", step.level, step.target)
        if by.h:
            terms = differences(outputs[::-1][:order], lambdas_behind(step, order), by.h)
            weights = phis(by.h, order)
            if order == 3:
                weights[2] *= 2  # the second difference is half of a second derivative
            sample = move(sample, by, list(zip(weights, terms, strict=True)))
        return sample, newest(outputs, self.solver_order - 1)
