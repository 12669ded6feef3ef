"""SA-Solver, a stochastic Adams method with predictor and corrector: Xue et al. 2023."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp, expm1, factorial, inf, isinf
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from .diffusion import DiffusionScheduler
from .dpmsolver import thresholded_noise, unbounded_step
from .exponential_integrator import Transfer, lambdas_before, move, phis, unbounded
from .history import History, newest
from .keys import (
    STEP_ARGUMENT,
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    FlowKeys,
    LearnedVarianceKeys,
    MaybeInfinite,
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
class SASolverScheduler(
    DiffusionScheduler,
    SpacingKeys,
    CurveKeys,
    CustomaryCurveKeys,
    ThresholdKeys,
    FlowKeys,
    LearnedVarianceKeys,
    UnpublishedZeroSNRKeys,
):
    """SA-Solver (Xue et al. 2023, algorithm 1), from the flow without noise (tau 0) to the reverse diffusion (tau 1).

    With h the step in lambda and P the polynomial in lambda through the last clean estimates:

        x' = sigma' / sigma e^(-tau^2 h) x + sigma' sqrt(1 - e^(-2 tau^2 h)) noise
             + alpha' (1 + tau^2) integral of e^(-(1 + tau^2)(lambda' - l)) P(l) dl over the step

    The corrector needs no model call: it repeats the last step with this output. The run ends at the model's least
    noise. History: the sample of the last step with its factor and its noise, then the outputs, oldest first.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: FlowPrediction = "epsilon"
    predictor_order: Annotated[int, Ge(1), Le(4)] = 2
    corrector_order: Annotated[int, Ge(1), Le(4)] = 2
    """The order of the last step when it is repeated, its new output counted."""
    lower_order_final: bool = True
    """Lower the orders at the end of a run."""
    algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction"
    lambda_min_clipped: MaybeInfinite = -inf
    """Levels with a smaller lambda (less signal) are not visited: -5.1 is published for cosine schedules."""
    tau_func: None = None
    """Published, but a function, which no file can hold; `tau` and the two below are its published default."""
    tau: Annotated[float, Ge(0)] = field(default=1.0, metadata=STEP_ARGUMENT)
    """The amount of noise, at timesteps from tau_from to tau_to; outside of these none is drawn."""
    tau_from: float = field(default=200.0, metadata=STEP_ARGUMENT)
    tau_to: float = field(default=800.0, metadata=STEP_ARGUMENT)

    rules = (check_curve_without_flow,)

    @property
    def levels(self) -> LambdaLevels:
        """The level planner of this config."""
        training = self.training
        stays = self.use_flow_sigmas or curves_set(self)
        return LambdaLevels(
            training,
            spaced_above(self.timestep_spacing, self.steps_offset, training, self.lambda_min_clipped),
            self.steps_offset,
            curve_of(self, training),
            flow_of(self),
            end=None if stays else float(training.sigmas[0]),
            customary=self.sigma_curve,
        )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; with tau each step draws noise."""
        return lambda_schedule(self.levels(request), self.use_flow_sigmas, adds_noise=self.tau > 0)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 1: the corrector for the last step, then the predictor for this one."""
        sample = sample.float()
        if self.algorithm_type == "data_prediction":
            output = self.denoised(sample, prediction, step)
        else:
            output = thresholded_noise(self, sample, prediction, step)
        outputs = (*history[1:], output)
        if len(outputs) > 1:
            sample = self._correct(sample, history[0], outputs, step)
        remembered = max(self.predictor_order, self.corrector_order - 1)
        if unbounded(step, integrates_noise=self.algorithm_type == "noise_prediction"):
            moved = unbounded_step(self, sample, prediction, step)
            return moved, (moved, *newest(outputs, remembered))
        by = self._transfer(step)
        kept = move(sample, by, (), self._noise(noise, step) if step.noisy else None)
        return self._predict(kept, outputs, step, by), (kept, *newest(outputs, remembered))

    def _predict(self, kept: Tensor, outputs: History, step: Step, by: Transfer) -> Tensor:
        """The SA-Predictor: through this output and those before it."""
        order = min(self._limit(self.predictor_order, step), len(outputs))
        return self._integrate(kept, by, outputs[::-1][:order], lambdas_before(step, order), step)

    def _correct(self, sample: Tensor, kept: Tensor, outputs: History, step: Step) -> Tensor:
        """The SA-Corrector: the last step again, through the output where it led. A step from pure noise stays."""
        last = Step(step.schedule, step.index - 1)
        if not last.level.alpha:
            return sample
        order = min(self._limit(self.corrector_order, last, extra=1), len(outputs))
        return self._integrate(kept, self._transfer(last), outputs[::-1][:order], lambdas_before(step, order), last)

    def _limit(self, order: int, step: Step, extra: int = 0) -> int:
        left = len(step.schedule.timesteps) - step.index + extra
        return min(order, left) if self.lower_order_final else order

    def _transfer(self, step: Step) -> Transfer:
        """The exact part of a step, for the clean sample or for noise: variation of constants, with 1 + tau^2."""
        start, end = step.level, step.target
        tau = self.tau if self.tau_from <= step.timestep <= self.tau_to else 0.0
        h, drawn = end.log_snr - start.log_snr, tau**2
        drawn_h = drawn * h if drawn else 0.0  # h may be infinite
        if self.algorithm_type == "data_prediction":
            std = end.sigma * max(-expm1(-2 * drawn_h), 0) ** 0.5
            return Transfer(end.sigma / start.sigma * exp(-drawn_h), end.alpha, -(1 + drawn) * h, std)
        std = tau * end.sigma * max(expm1(2 * h), 0) ** 0.5
        return Transfer(end.alpha / start.alpha, (1 + drawn) * end.sigma, h, std)

    def _integrate(
        self, kept: Tensor, by: Transfer, outputs: Sequence[Tensor], lambdas: Sequence[float], step: Step
    ) -> Tensor:
        """The polynomial through the outputs, integrated against the exponential."""
        if not by.h:
            return kept
        if isinf(by.h):  # no polynomial reaches infinitely far
            return move(kept, by._replace(keep=1.0), [(phis(by.h, 1)[0], outputs[0])])
        start = step.level.log_snr
        h = step.target.log_snr - start
        shares = [(at - start) / h for at in lambdas if at != -inf]  # nor to a level without signal
        moments = [factorial(k) * phi for k, phi in enumerate(phis(by.h, len(shares)))]
        if len(shares) == 2 and self.algorithm_type == "data_prediction":
            moments[1] = by.h / 2  # a change of third order that helps short runs, as in UniPC
        weights = np.linalg.solve(np.vander(shares, increasing=True).T, moments).tolist()
        return move(kept, by._replace(keep=1.0), list(zip(weights, outputs, strict=False)))
