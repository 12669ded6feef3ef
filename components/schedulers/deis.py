"""Diffusion exponential integrator sampler: Zhang and Chen 2022, with polynomials in log rho."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torch import Tensor

from .diffusion import DiffusionScheduler
from .dpmsolver import thresholded_noise, unbounded_step
from .exponential_integrator import differences, lambdas_before, move, phis, transfer, unbounded, usable_order
from .history import History, newest
from .keys import (
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    DynamicShiftKeys,
    FlowKeys,
    SpacingKeys,
    ThresholdKeys,
    UnpublishedZeroSNRKeys,
    curves_set,
)
from .lambda_levels import LambdaLevels, check_curve_without_flow, curve_of, flow_of, lambda_schedule, spaced_above
from .predictions import FlowPrediction
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DEISMultistepScheduler(
    DiffusionScheduler,
    SpacingKeys,
    CurveKeys,
    CustomaryCurveKeys,
    ThresholdKeys,
    FlowKeys,
    DynamicShiftKeys,
    UnpublishedZeroSNRKeys,
):
    """tAB-DEIS (Zhang and Chen 2022, equation 15) in log rho = -lambda: DPM-Solver for noise, integrated exactly.

    With h the step in lambda, and D0, D1, D2 the noise and its divided differences over the last steps:
    x' = alpha' / alpha x - sigma' (phi1(h) D0 + phi2(h) D1 + 2 phi3(h) D2). The run ends at the model's least noise,
    or, on a curve, with a last step that stays where it is, as published. History: the last noises, oldest first.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: FlowPrediction = "epsilon"
    solver_order: Annotated[int, Ge(1), Le(3)] = 2
    lower_order_final: bool = True
    """Lower the order at the end of a run of fewer than 15 steps, which is steadier."""
    algorithm_type: Literal["deis"] = "deis"
    solver_type: Literal["logrho"] = "logrho"

    rules = (check_curve_without_flow,)

    @property
    def levels(self) -> LambdaLevels:
        """The level planner of this config."""
        training = self.training
        stays = self.use_flow_sigmas or curves_set(self)
        return LambdaLevels(
            training,
            spaced_above(self.timestep_spacing, self.steps_offset, training),
            self.steps_offset,
            curve_of(self, training),
            flow_of(self),
            end=None if stays else float(training.sigmas[0]),
            customary=self.sigma_curve,
        )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        return lambda_schedule(self.levels(request), self.use_flow_sigmas, adds_noise=False)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 15."""
        sample = sample.float()
        outputs = newest((*history, thresholded_noise(self, sample, prediction, step)), self.solver_order)
        if unbounded(step, integrates_noise=True):
            return unbounded_step(self, sample, prediction, step), newest(outputs, self.solver_order - 1)
        short = len(step.schedule.timesteps) < 15
        order = usable_order(self.solver_order, step, history, self.lower_order_final and short)
        order = order if step.target.alpha else 1  # no polynomial reaches pure noise
        by = transfer("dpmsolver", step.level, step.target)
        if by.h:
            terms = differences(outputs[::-1][:order], lambdas_before(step, order), by.h)
            weights = phis(by.h, order)
            if order == 3:
                weights[2] *= 2  # the second difference is half of a second derivative
            sample = move(sample, by, list(zip(weights, terms, strict=True)))
        return sample, newest(outputs, self.solver_order - 1)
