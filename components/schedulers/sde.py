"""The stochastic midpoint solver of DPM-Solver++ (Crowson, k-diffusion: `dpmpp_sde`)."""

from dataclasses import dataclass, field

from torch import Tensor

from .diffusion import DiffusionScheduler
from .heun import with_middles
from .history import History
from .keys import (
    STEP_ARGUMENT,
    Beta,
    BetaSchedule,
    CurveKeys,
    CustomaryCurveKeys,
    SpacingKeys,
    UnpublishedZeroSNRKeys,
)
from .predictions import Prediction
from .request import Request
from .schedule import Schedule, Step
from .sigma_levels import SigmaLevels


@dataclass(frozen=True, kw_only=True)
class DPMSolverSDEScheduler(DiffusionScheduler, SpacingKeys, CurveKeys, CustomaryCurveKeys, UnpublishedZeroSNRKeys):
    """To the middle of a step in log sigma, then the whole step with the output from there; both add fresh noise.

    From level sigma to sigma': x' = x0 + (x - x0) sigma'^2 / sigma^2 + up s_noise noise, with up as in
    EulerAncestralDiscreteScheduler. The reference takes both noises from one Brownian path, so that the second holds
    the first. Here they are passed in, unit normal and independent in each step, like every other scheduler's. History:
    inside a whole step, the sample that it started with.
    """

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    noise_sampler_seed: int | None = None
    """Published, and not read: noise comes from the run's seed."""
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)
    """The standard deviation of the noise."""

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, the second one in the middle; all but the last draw noise."""
        planner = SigmaLevels.of(self, self.training)
        calls = with_middles(planner(request), planner)
        last = len(calls.timesteps) - 1
        adds_noise = [call < last for call in range(last + 1)]
        return planner.schedule(calls, adds_noise, calls_per_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """One ancestral step from the whole step's start, with the clean estimate of this call."""
        x0 = self.denoised(sample, prediction, step)
        start, now, after = sample.float(), step.sigma, step.next_sigma
        following: History = (start,)
        if step.index % 2:
            (start,) = self._whole_step_start(history, step)
            now, following = step.schedule.sigmas[step.index - 1], ()
        if not step.noisy:
            return x0 + (start - x0) * (after / now), ()
        down, up = after**2 / now, after / now * max(now**2 - after**2, 0) ** 0.5  # one ancestral step, as in DDPM
        out = x0 + (start - x0) * (down / now)
        return out + up * self.s_noise * self._noise(noise, step), following
