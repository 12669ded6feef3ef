"""Solvers that call the model twice a step, in the terms of Karras et al. 2022: sample = clean + sigma * noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .base import History
from .betas import BetaSchedule
from .diffusion import AnyPrediction, noise_in
from .schedule import Schedule, Step
from .sigma_scheduler import Curved, SigmaScheduler
from .sigmas import Curve, to_timesteps


@dataclass(frozen=True, kw_only=True)
class HeunDiscreteScheduler(Curved, SigmaScheduler):
    """Heun's method: Karras et al. 2022, algorithm 1. The last step, to no noise, is one turn.

    History: in the middle of a step, the sample and the derivative that it started with.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "exp"] = "linear"
    prediction_type: AnyPrediction = "epsilon"
    clip_sample: bool = False
    clip_sample_range: float = 1.0

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        levels, clock = self._plan(n, timesteps, sigmas)
        return self._schedule(np.repeat(levels, 2)[1:-1], np.repeat(clock, 2)[1:], turns_a_step=2)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        x0 = super().denoised(sample, prediction, step)
        return x0.clamp(-self.clip_sample_range, self.clip_sample_range) if self.clip_sample else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        derivative = (sample - self.denoised(sample, prediction, step)) / step.sigma
        if step.index % 2:
            if not history:
                raise self._refuse_middle(step)
            start, first = history
            return start + (first + derivative) / 2 * (step.sigma - step.schedule.sigmas[step.index - 1]), ()
        following = (sample, derivative) if not step.last else ()
        return sample + derivative * (step.next_sigma - step.sigma), following


@dataclass(frozen=True, kw_only=True)
class KDPM2DiscreteScheduler(Curved, SigmaScheduler):
    """The midpoint method, its middle taken in log sigma (Crowson, k-diffusion: `dpm_2`).

    `schedule.sigmas` holds the middles too, for the sample is there in every second turn. History: in the middle of a
    step, the sample that it started with.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"

    def _rounds(self, kind: Curve) -> bool:
        return kind == "karras"

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
        where = to_timesteps(middles, self.training_sigmas)
        gaps = np.arange(1, len(clock))
        return self._schedule(np.insert(levels, gaps, middles), np.insert(clock, gaps, where), turns_a_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, sigmas = sample.float(), step.schedule.sigmas
        derivative = noise_in(self.prediction_type, sample, prediction.float(), step.level)
        if step.index % 2:
            if not history:
                raise self._refuse_middle(step)
            return history[0] + derivative * (step.next_sigma - sigmas[step.index - 1]), ()
        return sample + derivative * (step.next_sigma - step.sigma), (sample,) if not step.last else ()


@dataclass(frozen=True, kw_only=True)
class KDPM2AncestralDiscreteScheduler(Curved, SigmaScheduler):
    """The midpoint method to a level below the next, then fresh noise up to it (Crowson, k-diffusion).

    That level, next**2 / sigma, is such that the middle in log sigma is the next level itself. History: in the middle
    of a step, the sample that it started with.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"

    def _rounds(self, kind: Curve) -> bool:
        return kind == "karras"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        levels, clock = self._plan(n, timesteps, sigmas)
        where = to_timesteps(levels[1:-1], self.training_sigmas)
        turns = np.insert(clock, np.arange(1, len(clock)), where)
        draws = [turn % 2 == 1 for turn in range(len(turns))]
        return self._schedule(np.repeat(levels, 2)[1:-1], turns, draws, turns_a_step=2)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        derivative = noise_in(self.prediction_type, sample, prediction.float(), step.level)
        if step.index % 2 == 0:
            return sample + derivative * (step.next_sigma - step.sigma), (sample,) if not step.last else ()
        if not history:
            raise self._refuse_middle(step)
        start, after = step.schedule.sigmas[step.index - 1], step.sigma
        down, up = after**2 / start, after / start * max(start**2 - after**2, 0) ** 0.5
        return history[0] + derivative * (down - start) + up * self._noise(noise, step), ()
