"""UniPC, a predictor and corrector of any order: Zhao et al. 2023."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, isinf
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from ...graph.errors import ConfigError
from .arrays import Floats
from .curves import curve
from .diffusion import DiffusionScheduler
from .dpmsolver import unbounded_step
from .exponential_integrator import Transfer, lambdas_before, move, phis, transfer, unbounded, usable_order
from .flow_shift import shifted, stretched
from .history import History
from .keys import (
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    DynamicShiftKeys,
    FlowKeys,
    SpacingKeys,
    ThresholdKeys,
    ZeroSNRKeys,
    chosen_curve,
)
from .lambda_levels import FlowLevels, LambdaLevels, NamedCurve, flow_of, lambda_schedule, spaced_above
from .predictions import FlowPrediction
from .request import Request
from .schedule import Level, Schedule, Step


def check_unipc(scheduler: "UniPCMultistepScheduler") -> None:
    """A rule: the end fits the integrated quantity, and flow fits its curve and its last level."""
    kind = chosen_curve(scheduler)
    if scheduler.use_flow_sigmas and kind in ("exponential", "beta"):
        raise ConfigError(
            f"UniPCMultistepScheduler takes use_{kind}_sigmas or use_flow_sigmas, not both. Set one of them."
        )
    if scheduler.shift_terminal is not None and not scheduler.use_flow_sigmas:
        raise ConfigError("UniPCMultistepScheduler takes shift_terminal only with use_flow_sigmas=True. Set both.")
    if not scheduler.predict_x0 and scheduler.final_sigmas_type == "zero":
        raise ConfigError(
            "UniPCMultistepScheduler(predict_x0=False) integrates noise, and cannot end without noise. "
            "Set final_sigmas_type='sigma_min', or predict_x0=True."
        )


@dataclass(frozen=True, kw_only=True)
class UniPCMultistepScheduler(
    DiffusionScheduler,
    SpacingKeys,
    CurveKeys,
    CustomaryCurveKeys,
    ThresholdKeys,
    FlowKeys,
    DynamicShiftKeys,
    ZeroSNRKeys,
):
    """UniPC (Zhao et al. 2023, algorithms 1 and 2): a predictor and a corrector of any order.

    With h the step in lambda, m the clean estimate, and D_k the difference of the output k steps before to it, divided
    by their distance in lambda as a share of h:

        x' = sigma' / sigma x - alpha' ((e^-h - 1) m + B(-h) sum_k a_k D_k)

    where a solves R a = b (equation 7). The corrector needs no model call: it repeats the last step with this output
    as one more D. History: the sample that the last step started from, then the outputs, oldest first.

    Raises ConfigError for keys that do not go together.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: FlowPrediction = "epsilon"
    solver_order: Annotated[int, Ge(1), Le(9)] = 2
    lower_order_final: bool = True
    """Lower the order at the end of a run, which is steadier."""
    predict_x0: bool = True
    """Whether the clean sample is integrated (as in DPM-Solver++), or the noise."""
    solver_type: Literal["bh1", "bh2"] = "bh2"
    """B(h) of equation 8: h, or e^h - 1."""
    disable_corrector: tuple[int, ...] = ()
    """Steps after which nothing is corrected: the first ones, where guidance is large."""
    solver_p: None = None
    """Published as another solver to predict with; not supported."""
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    sigma_min: float | None = None
    sigma_max: float | None = None
    """The ends of a karras, exponential or beta curve; None: those of training."""
    shift_terminal: float | None = None
    """With `use_flow_sigmas`: the last level before the end."""

    rules = (check_unipc,)

    @property
    def levels(self) -> LambdaLevels:
        """The level planner of this config."""
        training, kind = self.training, chosen_curve(self)
        most, least = self.sigma_max or float(training.sigmas[-1]), self.sigma_min or float(training.sigmas[0])
        along = None
        if kind is not None:
            sigmas = partial(curve, kind, sigma_max=most, sigma_min=least)
            along = NamedCurve(f"use_{kind}_sigmas", sigmas, kind == "karras")
        end: float | None = 0.0
        if self.final_sigmas_type == "sigma_min":
            end = None if kind or self.use_flow_sigmas else float(training.sigmas[0])
        flow = flow_of(self)
        return LambdaLevels(
            training,
            spaced_above(self.timestep_spacing, self.steps_offset, training),
            self.steps_offset,
            along,
            flow and FlowLevels(self._flow, flow.shift),
            end,
            self.sigma_curve,
        )

    def _flow(self, n: int, shift: float) -> Floats:
        levels = shifted(np.linspace(1, 1 / self.num_train_timesteps, n + 1)[:-1], shift)
        if self.shift_terminal:
            levels = stretched(levels, self.shift_terminal)
        return np.minimum(levels, 1 - 1e-6)  # lambda has no value at pure noise

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        return lambda_schedule(self.levels(request), self.use_flow_sigmas, adds_noise=False)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The corrector for the last step, then the predictor for this one."""
        sample = sample.float()
        output = self._output(sample, prediction, step)
        outputs = history[1:]
        if outputs and step.index - 1 not in self.disable_corrector:
            sample = self._correct(sample, history[0], outputs, output, step)
        known = (*outputs, output)[-self.solver_order :]
        if unbounded(step, integrates_noise=not self.predict_x0):
            return unbounded_step(self, sample, prediction, step), (sample, *known)
        order = self._order(step, outputs)
        return self._predict(sample, known, order, step), (sample, *known)

    def _order(self, step: Step, outputs: History) -> int:
        return usable_order(self.solver_order, step, outputs, self.lower_order_final)

    def _output(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The integrated quantity: clean sample or noise. The noise is never thresholded, as published."""
        if self.predict_x0:
            return self.denoised(sample, prediction, step)
        return self.noise_in(sample, prediction, step)

    def _predict(self, sample: Tensor, outputs: History, order: int, step: Step) -> Tensor:
        """UniP-p: Zhao et al. 2023, equation 4."""
        start, *behind = lambdas_before(step, order)
        by = self._transfer(step.level, step.target)
        if by.h == 0:
            return sample
        if by.h == -inf:  # the end without noise is infinitely far in lambda, where no polynomial reaches
            order, behind = 1, []
        h = step.target.log_snr - start
        shares = [(other - start) / h for other in behind]
        newest = outputs[-1]
        slopes = [(old - newest) / r for old, r in zip(outputs[-2::-1], shares, strict=False)]
        weights = [0.5] if order == 2 else self._solve(shares, by.h)  # 1/2: appendix F
        return self._combine(sample, by, newest, weights, slopes)

    def _correct(self, sample: Tensor, began: Tensor, outputs: History, output: Tensor, step: Step) -> Tensor:
        """UniC-p: Zhao et al. 2023, equation 3. The last step again from `began`, with the output where it led.

        The sample stays as it is where B(h) is infinite.
        """
        last = Step(step.schedule, step.index - 1)
        order = self._order(last, outputs[:-1])
        start, *behind = lambdas_before(last, order)
        h = last.target.log_snr - start
        if isinf(self._b(-h if self.predict_x0 else h)):
            return sample
        by = self._transfer(last.level, last.target)
        if by.h == 0:
            return began
        shares = [*((other - start) / h for other in behind), 1.0]
        newest = outputs[-1]
        others = (*outputs[-2::-1][: order - 1], output)
        slopes = [(other - newest) / r for other, r in zip(others, shares, strict=True)]
        weights = [0.5] if order == 1 else self._solve(shares, by.h)
        return self._combine(began, by, newest, weights, slopes)

    def _transfer(self, start: Level, end: Level) -> Transfer:
        return transfer("dpmsolver++" if self.predict_x0 else "dpmsolver", start, end)

    def _solve(self, shares: Sequence[float], h: float) -> list[float]:
        """The weights of the slopes, times B(h): equation 7, R a = b. A level without signal has the limit, 0."""
        near = [share for share in shares if isfinite(share)]
        if not near:
            return [0.0] * len(shares)
        powers = np.vander(near, increasing=True).T
        factorials = np.cumprod(np.arange(1, len(near) + 1))
        values = np.array(phis(h, len(near) + 1)[1:]) * factorials
        weights = iter(np.linalg.solve(powers, values / self._b(h)).tolist())
        return [next(weights) if isfinite(share) else 0.0 for share in shares]

    def _b(self, h: float) -> float:
        return h if self.solver_type == "bh1" else phis(h, 1)[0]

    def _combine(
        self, sample: Tensor, by: Transfer, newest: Tensor, weights: Sequence[float], slopes: Sequence[Tensor]
    ) -> Tensor:
        scaled = [weight * self._b(by.h) for weight in weights]
        return move(sample, by, [(phis(by.h, 1)[0], newest), *zip(scaled, slopes, strict=False)])
