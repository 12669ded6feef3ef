"""Euler's method, plain and ancestral, in the terms of Karras et al. 2022: sample = clean + sigma * noise."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt
from torch import Tensor

from ...graph.errors import ConfigError
from .diffusion import DiffusionScheduler
from .history import History
from .keys import BetaSchedule, ChurnKeys, CurveKeys, CustomaryCurveKeys, SpacingKeys, ZeroSNRKeys, churn
from .predictions import AnyPrediction, clean
from .request import Request
from .schedule import Level, Schedule, Step
from .sigma_levels import SigmaLevels


@dataclass(frozen=True, kw_only=True)
class EulerDiscreteScheduler(DiffusionScheduler, SpacingKeys, CurveKeys, CustomaryCurveKeys, ZeroSNRKeys, ChurnKeys):
    """Euler's method (Karras et al. 2022, algorithm 2 without its second-order correction).

    x' = x + (sigma' - sigma) d, where d = (x - x0) / sigma. With s_churn, noise raises sigma before the step.
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"
    interpolation_type: Literal["linear", "log_linear"] = "linear"
    """Levels by timestep, or n + 1 even steps in log sigma over the whole training range (which end above 0)."""
    sigma_min: Annotated[float, Gt(0)] | None = None
    sigma_max: Annotated[float, Gt(0)] | None = None
    """The ends of a karras, exponential or beta curve; None: those of the visited timesteps."""
    timestep_type: Literal["discrete", "continuous"] = "discrete"
    """With "v_prediction", "continuous" gives the model log(sigma) / 4 as its timestep, as EDM does."""
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def levels(self) -> SigmaLevels:
        """The level planner of this config."""
        training = self.training
        return replace(
            SigmaLevels.of(self, training),
            log_linear=self.interpolation_type == "log_linear",
            sigma_max=self.sigma_max,
            sigma_min=self.sigma_min,
            end=float(training.sigmas[0]) if self.final_sigmas_type == "sigma_min" else 0.0,
        )

    def plan(self, request: Request) -> Schedule:
        """One model call at each level."""
        planner = self.levels
        levels = planner(request)
        if self.timestep_type == "continuous" and self.prediction_type == "v_prediction":
            if request.timesteps is not None:
                raise ConfigError(
                    f"{request.scheduler} takes no timesteps with timestep_type='continuous': they follow sigma. "
                    "Pass sigmas."
                )
            levels = levels._replace(timesteps=0.25 * np.log(levels.sigmas[:-1]))
        calls = len(levels.timesteps)
        adds_noise = [churn(self, sigma, calls) > 0 for sigma in levels.sigmas[:-1].tolist()]
        return planner.schedule(levels, adds_noise)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 2, lines 4 to 8."""
        sample, prediction = sample.float(), prediction.float()
        if not step.noisy:
            derivative = self.noise_in(sample, prediction, step)  # dx/dsigma: the noise itself
            return sample + derivative * (step.next_sigma - step.sigma), ()
        sigma_hat = step.sigma * (1 + churn(self, step.sigma, len(step.schedule.timesteps)))
        churned = sample + self.s_noise * (sigma_hat**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
        # The model saw the sample before the churn. Published: epsilon is read at the new level, v at the old one.
        level = Level(1.0, sigma_hat) if self.prediction_type == "epsilon" else step.level
        derivative = (churned - clean(self.prediction_type, churned, prediction, level)) / sigma_hat
        return churned + derivative * (step.next_sigma - sigma_hat), ()


@dataclass(frozen=True, kw_only=True)
class EulerAncestralDiscreteScheduler(DiffusionScheduler, SpacingKeys, CustomaryCurveKeys, ZeroSNRKeys):
    """Euler's method to a level below the next, then fresh noise up to it (Crowson, k-diffusion: `euler_ancestral`).

    x' = x + (down - sigma) d + up noise, where up = sigma' / sigma sqrt(sigma^2 - sigma'^2) and
    down = sqrt(sigma'^2 - up^2).
    """

    beta_schedule: BetaSchedule = "linear"
    prediction_type: AnyPrediction = "epsilon"

    def plan(self, request: Request) -> Schedule:
        """One model call at each level; each step draws noise."""
        planner = SigmaLevels.of(self, self.training)
        levels = planner(request)
        return planner.schedule(levels, [True] * len(levels.timesteps))

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Euler's method down, and noise up."""
        sample, (down, up) = sample.float(), ancestral(step.sigma, step.next_sigma)
        derivative = self.noise_in(sample, prediction, step)
        return sample + derivative * (down - step.sigma) + up * self._noise(noise, step), ()


def ancestral(sigma: float, after: float) -> tuple[float, float]:
    """The level to go down to, and the noise to add there, of one ancestral step as in DDPM (k-diffusion, eta 1)."""
    up = after / sigma * max(sigma**2 - after**2, 0) ** 0.5
    return max(after**2 - up**2, 0) ** 0.5, up
