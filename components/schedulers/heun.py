"""Solvers that call the model twice a step, in the terms of Karras et al. 2022: sample = clean + sigma * noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .diffusion import DiffusionScheduler
from .history import History
from .keys import (
    Beta,
    BetaKeys,
    BetaSchedule,
    ClipKeys,
    CurveKeys,
    CustomaryCurveKeys,
    SpacingKeys,
    UnpublishedZeroSNRKeys,
)
from .predictions import AnyPrediction
from .request import Request
from .schedule import Schedule, Step
from .sigma_levels import Levels, SigmaLevels


@dataclass(frozen=True, kw_only=True)
class TwoCallKeys(BetaKeys, SpacingKeys, CurveKeys):
    """The published config keys of these solvers."""

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"


@dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(
    DiffusionScheduler, SpacingKeys, CurveKeys, CustomaryCurveKeys, UnpublishedZeroSNRKeys, ClipKeys
):
    """Heun's method (Karras et al. 2022, algorithm 1). The last step, to no noise, is one call.

    First call: x1 = x + (sigma' - sigma) d. Second call, at x1: x' = x + (sigma' - sigma) (d + d1) / 2.
    History: inside a whole step, the sample and the derivative that it started with.
    """

    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"
    prediction_type: AnyPrediction = "epsilon"
    clip_sample: bool = False

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, the second one where the first leads."""
        planner = SigmaLevels.of(self, self.training)
        sigmas, timesteps = planner(request)
        calls = Levels(np.repeat(sigmas, 2)[1:-1], np.repeat(timesteps, 2)[1:])
        return planner.schedule(calls, calls_per_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 1, lines 4 and 5, or 6 to 8."""
        sample = sample.float()
        derivative = (sample - self.denoised(sample, prediction, step)) / step.sigma
        if step.index % 2:
            start, first = self._whole_step_start(history, step)
            return start + (first + derivative) / 2 * (step.sigma - step.schedule.sigmas[step.index - 1]), ()
        following = (sample, derivative) if not step.last else ()
        return sample + derivative * (step.next_sigma - step.sigma), following


@dataclass(frozen=True, kw_only=True)
class KDPM2DiscreteScheduler(TwoCallKeys, CustomaryCurveKeys, UnpublishedZeroSNRKeys, DiffusionScheduler):
    """The midpoint method, its middle taken in log sigma (Crowson, k-diffusion: `dpm_2`).

    First call: x1 = x + (middle - sigma) d. Second call, at x1: x' = x + (sigma' - sigma) d1, where middle =
    sqrt(sigma sigma'). `schedule.sigmas` holds the middles too, where the sample is before each second call. History:
    inside a whole step, the sample that it started with.
    """

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, the second one in the middle."""
        planner = SigmaLevels.of(self, self.training, whole_timesteps=True)
        return planner.schedule(with_middles(planner(request), planner), calls_per_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The midpoint method."""
        sample = sample.float()
        derivative = self.noise_in(sample, prediction, step)
        if step.index % 2:
            (start,) = self._whole_step_start(history, step)
            return start + derivative * (step.next_sigma - step.schedule.sigmas[step.index - 1]), ()
        return sample + derivative * (step.next_sigma - step.sigma), (sample,) if not step.last else ()


@dataclass(frozen=True, kw_only=True)
class KDPM2AncestralDiscreteScheduler(TwoCallKeys, CustomaryCurveKeys, UnpublishedZeroSNRKeys, DiffusionScheduler):
    """The midpoint method to a level below the next, then fresh noise up to it (Crowson: `dpm_2_ancestral`).

    That level, sigma'^2 / sigma, is such that the middle in log sigma is the next level itself: x1 = x + (sigma' -
    sigma) d, and x' = x + (sigma'^2 / sigma - sigma) d1 + up noise, with up as in EulerAncestralDiscreteScheduler.
    History: inside a whole step, the sample that it started with.
    """

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, the second one at the next level; the second one draws noise."""
        planner = SigmaLevels.of(self, self.training, whole_timesteps=True)
        sigmas, timesteps = planner(request)
        second = self.training.timesteps_at(sigmas[1:-1])
        calls = Levels(np.repeat(sigmas, 2)[1:-1], np.insert(timesteps, np.arange(1, len(timesteps)), second))
        adds_noise = [call % 2 == 1 for call in range(len(calls.timesteps))]
        return planner.schedule(calls, adds_noise, calls_per_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The midpoint method down, and noise up."""
        sample = sample.float()
        derivative = self.noise_in(sample, prediction, step)
        if step.index % 2 == 0:
            return sample + derivative * (step.next_sigma - step.sigma), (sample,) if not step.last else ()
        (begun,) = self._whole_step_start(history, step)
        start, after = step.schedule.sigmas[step.index - 1], step.sigma
        down, up = after**2 / start, after / start * max(start**2 - after**2, 0) ** 0.5
        return begun + derivative * (down - start) + up * self._noise(noise, step), ()


def with_middles(levels: Levels, planner: SigmaLevels) -> Levels:
    """Levels with the middle of each step in log sigma put in, except in the step to no noise."""
    sigmas, timesteps = levels
    middles = (sigmas[:-2] * sigmas[1:-1]) ** 0.5
    gaps = np.arange(1, len(timesteps))
    return Levels(np.insert(sigmas, gaps, middles), np.insert(timesteps, gaps, planner.training.timesteps_at(middles)))
