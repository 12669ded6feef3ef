"""Models trained as in Karras et al. 2022 (EDM): their own noise levels, and their own reading of a prediction."""

from abc import abstractmethod
from dataclasses import dataclass
from math import atan, log, pi
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from .arrays import Floats
from .base import Scheduler
from .exponential_integrator import multistep, multistep_order
from .history import History, newest
from .keys import ChurnKeys, Positive, ThresholdKeys, TrainingSteps, churn
from .predictions import bounded
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class EDM(Scheduler):
    """The sample is clean + sigma * noise, and the model's input and output are scaled by table 1 of the paper."""

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5
    """The standard deviation of clean samples."""
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: TrainingSteps = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """The sign of the model's output: v is minus the paper's F."""
    rho: Positive = 7.0
    """The exponent of a karras curve, equation 5."""
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    accepts = "sigmas"
    multistep: ClassVar[bool] = False
    """Whether a step uses the estimates of earlier ones, which divides by the difference of their levels."""

    @abstractmethod
    def c_noise(self, sigma: float) -> float:
        """The timestep that the model gets at a level."""

    @abstractmethod
    def adds_noise(self, sigma: float, calls: int) -> bool:
        """Whether a step from this level needs noise, in a run of `calls` steps."""

    def plan(self, request: Request) -> Schedule:
        """One model call at each level of the request, or of a curve. ConfigError for equal levels of a multistep
        solver.
        """
        if request.sigmas is not None:
            levels: Floats = request.noise_levels()
            if self.multistep:
                request.refuse_equal_neighbours(levels[:-1])
        else:
            levels = self._curve(request.n)
            levels = np.append(levels, 0.0 if self.final_sigmas_type == "zero" else levels[-1]).astype(np.float32)
        sigmas: list[float] = levels.tolist()
        return Schedule(
            sigmas=tuple(sigmas),
            timesteps=tuple(self.c_noise(sigma) for sigma in sigmas[:-1]),
            noise_scale=(self.sigma_max**2 + 1) ** 0.5,
            scales_in=tuple((sigma**2 + self.sigma_data**2) ** -0.5 for sigma in sigmas[:-1]),  # c_in
            adds_noise=tuple(self.adds_noise(sigma, len(sigmas) - 1) for sigma in sigmas[:-1]),
        )

    def _curve(self, n: int) -> Floats:
        """Karras et al. 2022, equation 5, or even steps in log sigma."""
        ramp = np.linspace(0, 1, n)
        if self.sigma_schedule == "exponential":
            return np.exp(log(self.sigma_max) + ramp * (log(self.sigma_min) - log(self.sigma_max)))
        top, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (top + ramp * (low - top)) ** self.rho

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """D = c_skip x + c_out F, thresholded as the config chooses."""
        return bounded(self, self.preconditioned(sample.float(), prediction.float(), step.sigma))

    def preconditioned(self, sample: Tensor, prediction: Tensor, sigma: float) -> Tensor:
        """D = c_skip x + c_out F at any level: Karras et al. 2022, equation 7 and table 1."""
        variance = sigma**2 + self.sigma_data**2
        out = sigma * self.sigma_data / variance**0.5
        return (
            self.sigma_data**2 / variance * sample + (out if self.prediction_type == "epsilon" else -out) * prediction
        )


@dataclass(frozen=True, kw_only=True)
class EDMEulerScheduler(EDM, ChurnKeys):
    """Euler's method for EDM models (Karras et al. 2022, algorithm 2 without its second-order correction).

    x' = x + (sigma' - sigma) (x - D) / sigma. With s_churn, noise raises sigma before the step.
    """

    @property
    def process(self) -> str:
        """EDM."""
        return "EDM"

    def c_noise(self, sigma: float) -> float:
        """log(sigma) / 4: table 1."""
        return 0.25 * log(sigma)

    def adds_noise(self, sigma: float, calls: int) -> bool:
        """Whether churn raises this sigma."""
        return self._gamma(sigma, calls) > 0

    def _gamma(self, sigma: float, calls: int) -> float:
        """Line 5. The published divisor counts the end of the run as a step."""
        return churn(self, sigma, calls + 1)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 2, lines 4 to 8."""
        sample, sigma = sample.float(), step.sigma
        if step.noisy:
            sigma *= 1 + self._gamma(sigma, len(step.schedule.timesteps))
            sample = sample + self.s_noise * (sigma**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
        derivative = (sample - self.preconditioned(sample, prediction.float(), sigma)) / sigma
        return sample + derivative * (step.next_sigma - sigma), ()


@dataclass(frozen=True, kw_only=True)
class MultistepKeys:
    """The published config keys of the multistep solvers for EDM models."""

    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    """Lower the order at the end of a run of fewer than 15 steps, which is steadier."""
    euler_at_final: bool = False
    """Take the last step at first order."""


@dataclass(frozen=True, kw_only=True)
class EDMDPMSolverMultistepScheduler(EDM, MultistepKeys, ThresholdKeys):
    """DPM-Solver++ for EDM models (Lu et al. 2022b, algorithm 2): first to third order, deterministic or stochastic.

    The formula is that of DPMSolverMultistepScheduler with alpha = 1. History: the last clean estimates, oldest first.
    """

    multistep: ClassVar[bool] = True

    solver_order: Annotated[int, Ge(1), Le(3)] = 2
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"

    @property
    def process(self) -> str:
        """EDM."""
        return "EDM"

    def c_noise(self, sigma: float) -> float:
        """log(sigma) / 4: table 1."""
        return 0.25 * log(sigma)

    def adds_noise(self, sigma: float, calls: int) -> bool:
        """In each step of the stochastic kind."""
        return self.algorithm_type.startswith("sde")

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Lu et al. 2022b, algorithm 2."""
        outputs = newest((*history, self.denoised(sample, prediction, step)), self.solver_order)
        order = multistep_order(self.solver_order, step, history, self.lower_order_final, self.euler_at_final)
        drawn = self._noise(noise, step) if step.noisy else None
        midpoint = self.solver_type == "midpoint"
        sample = multistep(sample.float(), outputs, step, self.algorithm_type, order, midpoint, drawn)
        return sample, newest(outputs, self.solver_order - 1)


@dataclass(frozen=True, kw_only=True)
class CosineDPMSolverMultistepScheduler(EDM, MultistepKeys):
    """The stochastic DPM-Solver++ for models whose timestep is an angle, as Stable Audio's (Crowson: k-diffusion).

    A sample at level sigma is a point between signal and noise at the angle atan(sigma), and the timestep is its share
    of a right angle: the cosine schedule. The formula is that of Lu et al. 2022b, section 6. The reference takes noise
    from one Brownian path; here it is passed in, unit normal and independent in each step, like every other
    scheduler's. History: the last clean estimate.
    """

    multistep: ClassVar[bool] = True

    sigma_min: Positive = 0.3
    sigma_max: Positive = 500.0
    sigma_data: Positive = 1.0
    sigma_schedule: Literal["karras", "exponential"] = "exponential"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"
    solver_order: Annotated[int, Ge(1), Le(2)] = 2

    @property
    def process(self) -> str:
        """Levels as angles."""
        return "angles"

    def c_noise(self, sigma: float) -> float:
        """The angle of the level, as a share of a right angle."""
        return atan(sigma) / (pi / 2)

    def adds_noise(self, sigma: float, calls: int) -> bool:
        """In each step."""
        return True

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Lu et al. 2022b, section 6, of first or second order."""
        outputs = newest((*history, self.denoised(sample, prediction, step)), self.solver_order)
        order = multistep_order(self.solver_order, step, history, self.lower_order_final, self.euler_at_final)
        midpoint = self.solver_type == "midpoint"
        drawn = self._noise(noise, step)
        sample = multistep(sample.float(), outputs, step, "sde-dpmsolver++", order, midpoint, drawn)
        return sample, newest(outputs, self.solver_order - 1)
