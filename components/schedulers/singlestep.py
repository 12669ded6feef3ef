"""DPM-Solver with its steps in groups: Lu et al. 2022, algorithms 1 and 2; Lu et al. 2022b, algorithm 1."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from .diffusion import DiffusionScheduler
from .dpmsolver import DPMSolverKeys, check_end, integrated, unbounded_step
from .exponential_integrator import move, phis, transfer, unbounded
from .history import History
from .keys import CustomaryCurveKeys, DynamicShiftKeys, UnpublishedZeroSNRKeys
from .lambda_levels import LambdaLevels, check_curve_without_flow, curve_of, flow_of, lambda_schedule, spaced_above
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DPMSolverSinglestepScheduler(
    DPMSolverKeys, CustomaryCurveKeys, DynamicShiftKeys, UnpublishedZeroSNRKeys, DiffusionScheduler
):
    """DPM-Solver++(2S) by default (Lu et al. 2022b, algorithm 1): steps in groups of `solver_order`.

    Each step of a group goes from the group's first sample x, with one output more than the last, so the last step of a
    group is one of that order, and those before it bring the sample to where the model is called. For two outputs, with
    h the step in lambda from x and r the share of h at which the second is:

        x' = sigma' / sigma x - alpha' (e^-h - 1) (x0 + (x0_r - x0) / (2 r))

    History: the group's first sample, then its outputs.
    """

    algorithm_type: Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lower_order_final: bool = False
    """Take the last step at first order, as it is too where the run ends without noise."""

    rules = (check_end, check_curve_without_flow)

    @property
    def levels(self) -> LambdaLevels:
        """The level planner of this config: "linspace" spacing."""
        training = self.training
        return LambdaLevels(
            training,
            spaced_above("linspace", 0, training, self.lambda_min_clipped),
            0,
            curve_of(self, training),
            flow_of(self),
            end=float(training.sigmas[0]) if self.final_sigmas_type == "sigma_min" else 0.0,
            customary=self.sigma_curve,
        )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; "sde-dpmsolver++" draws noise in each step."""
        return lambda_schedule(self.levels(request), self.use_flow_sigmas, self.algorithm_type.startswith("sde"))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """From the group's first sample, with the outputs of the group so far."""
        sample = sample.float()
        order = self._orders(len(step.schedule.timesteps), step.schedule.sigmas[-1] == 0)[step.index]
        outputs = (*history[1:], integrated(self, sample, prediction, step))
        outputs = outputs[-1:] if order == 1 else outputs  # a run that starts inside a group has a smaller group
        if unbounded(step, integrates_noise=self.algorithm_type == "dpmsolver"):
            return unbounded_step(self, sample, prediction, step), (sample, *outputs)
        if not step.schedule.levels[step.index - len(outputs) + 1].alpha:
            outputs = outputs[-1:]  # no polynomial reaches a group's start without signal: the group starts here
        start = sample if len(outputs) == 1 else history[0]
        levels = step.schedule.levels[step.index - len(outputs) + 1 : step.index + 1]
        by = transfer(self.algorithm_type, levels[0], step.target)
        drawn = self._noise(noise, step) if step.noisy else None
        if by.h == 0:
            return start, (start, *outputs)
        whole = step.target.log_snr - levels[0].log_snr
        shares = [(level.log_snr - levels[0].log_snr) / whole for level in levels[1:]]
        return move(start, by, self._terms(outputs, shares, by.h), drawn), (start, *outputs)

    def _terms(self, outputs: History, shares: list[float], h: float) -> list[tuple[float, Tensor]]:
        """The terms of the integral. shares: where the later outputs are, in shares of the step from the first."""
        first, *others = outputs
        slopes = [(other - first) / share for other, share in zip(others, shares, strict=True)]
        phi1, phi2, phi3 = phis(h, 3)
        if not slopes:
            return [(phi1, first)]
        if len(slopes) == 1:
            return [(phi1, first), (phi1 / 2 if self.solver_type == "midpoint" else phi2, slopes[0])]
        if self.solver_type == "midpoint":
            return [(phi1, first), (phi2, slopes[1])]
        (near, far), (r1, r2) = slopes, shares
        return [(phi1, first), (phi2, (r2 * near - r1 * far) / (r2 - r1)), (2 * phi3, (far - near) / (r2 - r1))]

    def _orders(self, n: int, to_zero: bool) -> list[int]:
        """The order of each step: 1, 2, 3, 1, 2, 3 ..., and lower ones at the end."""
        order = self.solver_order
        orders = [*range(1, order + 1)] * (n // order) + [*range(1, n % order + 1)]
        if to_zero or (self.lower_order_final and not n % order):
            orders[-1] = 1
        return orders
