"""DPM-Solver and DPM-Solver++: Lu et al. 2022 and 2022b."""

from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Annotated, Literal

from annotated_types import Ge, Le
from torch import Tensor

from ...graph.errors import ConfigError
from .curves import even_lambdas
from .diffusion import DiffusionScheduler
from .exponential_integrator import Algorithm, multistep, multistep_order, unbounded
from .history import History, newest
from .keys import (
    BetaKeys,
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    DynamicShiftKeys,
    FlowKeys,
    LearnedVarianceKeys,
    MaybeInfinite,
    SpacingKeys,
    ThresholdKeys,
    ZeroSNRKeys,
)
from .lambda_levels import (
    LambdaLevels,
    NamedCurve,
    check_curve_without_flow,
    curve_of,
    flow_of,
    lambda_schedule,
    spaced_above,
)
from .predictions import FlowPrediction
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DPMSolverKeys(BetaKeys, CurveKeys, ThresholdKeys, FlowKeys, LearnedVarianceKeys):
    """The published config keys that all DPM-Solvers have."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: FlowPrediction = "epsilon"
    solver_order: Annotated[int, Ge(1), Le(3)] = 2
    algorithm_type: Algorithm = "dpmsolver++"
    """"dpmsolver" integrates the noise, "++" the clean sample, and "sde-" adds fresh noise in every step."""
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    """The weight of the difference of outputs in the second order: (e^-h - 1) / 2, or the exact integral."""
    lower_order_final: bool = True
    """Lower the order at the end of a run of fewer than 15 steps, which is steadier."""
    lambda_min_clipped: MaybeInfinite = -inf
    """Levels with a smaller lambda (less signal) are not visited: -5.1 is published for cosine schedules."""


def check_end(scheduler: DPMSolverKeys) -> None:
    """A rule: where the noise is integrated, a run cannot end without noise."""
    if (
        scheduler.algorithm_type in ("dpmsolver", "sde-dpmsolver")
        and getattr(scheduler, "final_sigmas_type", "") == "zero"
    ):
        raise ConfigError(
            f"{type(scheduler).__name__}(algorithm_type={scheduler.algorithm_type!r}) integrates noise, and cannot end "
            "without noise. Set final_sigmas_type='sigma_min', or algorithm_type='dpmsolver++'."
        )


@dataclass(frozen=True, kw_only=True)
class DPMSolverMultistepScheduler(
    DPMSolverKeys, SpacingKeys, CustomaryCurveKeys, DynamicShiftKeys, ZeroSNRKeys, DiffusionScheduler
):
    """DPM-Solver++(2M) by default (Lu et al. 2022b, algorithm 2); first to third order, deterministic or stochastic.

    2M, with x0_i the clean estimate at step i, alpha_i and sigma_i its level, and lambda = log(alpha / sigma):

        h = lambda_(i+1) - lambda_i
        r = (lambda_i - lambda_(i-1)) / h
        D = (1 + 1 / (2 r)) x0_i - 1 / (2 r) x0_(i-1)
        x_(i+1) = sigma_(i+1) / sigma_i x_i - alpha_(i+1) (e^-h - 1) D

    The first step takes D = x0_0, and so does the last one where the run ends without noise (lambda is infinite) or
    has fewer than 15 steps. "dpmsolver" is the same for noise (Lu et al. 2022), and the "sde-" kinds add noise
    (Lu et al. 2022b, section 6). History: the last outputs (x0 or noise), oldest first.

    Raises ConfigError for keys that do not go together: noise integrated to an end without noise, a curve with
    `use_flow_sigmas`, or a prediction of the other kind of levels.
    """

    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    euler_at_final: bool = False
    """Take the last step at first order."""
    use_lu_lambdas: bool = False
    """Levels are even in lambda over the whole training range. A karras curve, where it is set too, wins."""

    rules = (check_end, check_curve_without_flow)

    @property
    def levels(self) -> LambdaLevels:
        """The level planner of this config."""
        training, cosine = self.training, self.beta_schedule == "squaredcos_cap_v2"
        curve = curve_of(self, training, whole=() if cosine else ("karras",))
        if self.use_lu_lambdas and not self.use_karras_sigmas:
            curve = NamedCurve("use_lu_lambdas", partial(even_lambdas, training=training.sigmas), not cosine)
        return LambdaLevels(
            training,
            spaced_above(self.timestep_spacing, self.steps_offset, training, self.lambda_min_clipped),
            self.steps_offset,
            curve,
            flow_of(self),
            end=float(training.sigmas[0]) if self.final_sigmas_type == "sigma_min" else 0.0,
            customary=self.sigma_curve,
        )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; the "sde-" kinds draw noise in each step."""
        return lambda_schedule(self.levels(request), self.use_flow_sigmas, self.algorithm_type.startswith("sde"))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Lu et al. 2022b, algorithm 2."""
        outputs = newest((*history, integrated(self, sample, prediction, step)), self.solver_order)
        order = multistep_order(self.solver_order, step, history, self.lower_order_final, self.euler_at_final)
        drawn = self._noise(noise, step) if step.noisy else None
        if unbounded(step, integrates_noise=not self.algorithm_type.endswith("++")):
            return unbounded_step(self, sample, prediction, step), newest(outputs, self.solver_order - 1)
        midpoint = self.solver_type == "midpoint"
        sample = multistep(sample.float(), outputs, step, self.algorithm_type, order, midpoint, drawn)
        return sample, newest(outputs, self.solver_order - 1)


def integrated(scheduler: DiffusionScheduler, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
    """The quantity that the algorithm of a DPM-Solver integrates: the clean sample ("++") or the noise."""
    if isinstance(scheduler, DPMSolverKeys) and scheduler.algorithm_type.endswith("++"):
        return scheduler.denoised(sample, prediction, step)
    return thresholded_noise(scheduler, sample, prediction, step)


def thresholded_noise(scheduler: DiffusionScheduler, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
    """epsilon, estimated again from the clean estimate where that is thresholded."""
    if isinstance(scheduler, ThresholdKeys) and scheduler.thresholding:
        alpha, sigma = step.level
        return (sample.float() - alpha * scheduler.denoised(sample, prediction, step)) / sigma
    return scheduler.noise_in(sample, prediction, step)


def unbounded_step(scheduler: DiffusionScheduler, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
    """The limit of an integrator's first order in an unbounded step: alpha' x0 + sigma' epsilon.

    It is DDIM: Song et al. 2020, equation 12. No polynomial reaches infinitely far in lambda.
    """
    alpha, sigma = step.target
    x0 = scheduler.denoised(sample, prediction, step)
    return alpha * x0 + sigma * thresholded_noise(scheduler, sample, prediction, step)
