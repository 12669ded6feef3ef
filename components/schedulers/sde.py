"""The stochastic midpoint solver of DPM-Solver++ (Crowson, k-diffusion: `dpmpp_sde`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from .base import STEP_ARGUMENT, History
from .betas import BetaSchedule
from .diffusion import Prediction
from .schedule import Schedule, Step
from .sigma_scheduler import Curved, SigmaScheduler
from .sigmas import to_timesteps


@dataclass(frozen=True, kw_only=True)
class DPMSolverSDEScheduler(Curved, SigmaScheduler):
    """To the middle of a step in log sigma, then the whole step with the answer from there; both add fresh noise.

    The reference cuts both noises from one Brownian path, so that the second holds the first. Here they are given, unit
    normal and independent in each turn, like every other scheduler's. History: in the middle of a step, the sample that
    it started with.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "linear"
    prediction_type: Prediction = "epsilon"
    noise_sampler_seed: int | None = None
    """Published, and not looked at: noise comes from the run's seed."""
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        levels, clock = self._plan(n, timesteps, sigmas)
        middles = (levels[:-2] * levels[1:-1]) ** 0.5
        gaps = np.arange(1, len(clock))
        turns = np.insert(clock, gaps, to_timesteps(middles, self.training_sigmas))
        draws = [turn + 1 < len(turns) for turn in range(len(turns))]
        return self._schedule(np.insert(levels, gaps, middles), turns, draws, turns_a_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        start, now, after = sample.float(), step.sigma, step.next_sigma
        following: History = (start,)
        if step.index % 2:
            if not history:
                raise self._refuse_middle(step)
            start, now, following = history[0], step.schedule.sigmas[step.index - 1], ()
        if not step.noisy:
            return x0 + (start - x0) * (after / now), ()
        down, up = after**2 / now, after / now * max(now**2 - after**2, 0) ** 0.5  # one ancestral step, as in DDPM
        out = x0 + (start - x0) * (down / now)
        return out + up * self.s_noise * self._noise(noise, step), following
