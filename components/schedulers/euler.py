"""Euler's method, plain and ancestral, in the terms of Karras et al. 2022: sample = clean + sigma * noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History
from .betas import BetaSchedule, Floats
from .diffusion import AnyPrediction, ZeroTerminalSNR, clean, noise_in
from .schedule import Level, Schedule, Step
from .sigma_scheduler import Curved, SigmaScheduler
from .sigmas import curve, to_timesteps


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(Curved, SigmaScheduler, ZeroTerminalSNR):
    """Karras et al. 2022, algorithm 2 without its second-order correction; s_churn = 0 makes it deterministic."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    """Levels by timestep, or n + 1 even steps in log sigma over the whole training range (which end above 0)."""
    sigma_min: float | None = None
    sigma_max: float | None = None
    """The ends of a karras, exponential or beta curve; by default those of the visited timesteps."""
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    """With "v_prediction", "continuous" gives the model log(sigma) / 4 as its clock, as EDM does."""
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    s_churn: float = field(default=0.0, metadata=STEP_ARGUMENT)
    """How much noise is put back in all; table 5 of the paper. In turns whose sigma lies in s_tmin..s_tmax."""
    s_tmin: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmax: float = field(default=inf, metadata=STEP_ARGUMENT)
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, end in (("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)):
            if end is not None and end <= 0:
                raise ConfigError(
                    f"EulerDiscreteScheduler wants {key} above 0, or None for the model's own; not {end}."
                )

    @property
    def _edm_clock(self) -> bool:
        return self.timestep_type == "continuous" and self.prediction_type == "v_prediction"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            levels, clock = self._asked(sigmas, timesteps)
        else:
            self._refuse_timesteps_on_a_curve(timesteps)
            levels, clock = self._planned(self._visited(n, timesteps).astype(np.float32))
        if self._edm_clock:
            if timesteps is not None:
                raise ConfigError(
                    "EulerDiscreteScheduler takes no timesteps with timestep_type='continuous': they follow sigma."
                )
            clock = 0.25 * np.log(levels[:-1])
        return self._schedule(levels, clock, adds_noise=[self._gamma(s, len(clock)) > 0 for s in levels[:-1].tolist()])

    def _planned(self, visited: Floats) -> tuple[Floats, Floats]:
        training, n = self.training_sigmas, len(visited)
        if self.interpolation_type == "log_linear":
            levels = np.exp(np.linspace(np.log(training[-1]), np.log(training[0]), n + 1))
        else:
            levels = self._at(visited)
        for kind in self._curves().values():
            ends = (self.sigma_max or levels[0], self.sigma_min or levels[-1])
            levels = curve(kind, n, float(ends[0]), float(ends[1]))
            visited = to_timesteps(levels, training)
        final = training[0] if self.final_sigmas_type == "sigma_min" else 0.0
        return np.append(levels, final)[: n + 1].astype(np.float32), visited

    def _gamma(self, sigma: float, n: int) -> float:
        """By how much churn raises sigma: Karras et al. 2022, algorithm 2, line 5."""
        return min(self.s_churn / n, 2**0.5 - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, prediction = sample.float(), prediction.float()
        if not step.noisy:
            derivative = noise_in(self.prediction_type, sample, prediction, step.level)  # dx/dsigma: the noise itself
            return sample + derivative * (step.next_sigma - step.sigma), ()
        sigma_hat = step.sigma * (1 + self._gamma(step.sigma, len(step.schedule.timesteps)))
        churned = sample + self.s_noise * (sigma_hat**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
        # The model saw the sample before the churn. Published: epsilon is read at the new level, v at the old one.
        level = Level(1.0, sigma_hat) if self.prediction_type == "epsilon" else step.level
        derivative = (churned - clean(self.prediction_type, churned, prediction, level)) / sigma_hat
        return churned + derivative * (step.next_sigma - sigma_hat), ()


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(SigmaScheduler, ZeroTerminalSNR):
    """Euler's method to a level below the next, then fresh noise up to it (Crowson, k-diffusion: `euler_ancestral`)."""

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            levels, clock = self._asked(sigmas, timesteps)
        else:
            clock = self._visited(n, timesteps).astype(np.float32)
            levels = np.append(self._at(clock), 0.0).astype(np.float32)
        return self._schedule(levels, clock, adds_noise=[True] * len(clock))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, prediction = sample.float(), prediction.float()
        now, after = step.sigma, step.next_sigma
        up = after / now * max(now**2 - after**2, 0) ** 0.5  # the noise of one ancestral step, as in DDPM
        down = max(after**2 - up**2, 0) ** 0.5
        derivative = noise_in(self.prediction_type, sample, prediction, step.level)
        return sample + derivative * (down - now) + up * self._noise(noise, step), ()
