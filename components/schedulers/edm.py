"""Models trained as in Karras et al. 2022 (EDM): their own noise levels, and their own reading of a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import atan, inf, log, pi
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History, Scheduler
from .betas import Floats
from .diffusion import dynamic_threshold
from .lambdas import move, phis, transfer
from .multistep import differences, lambdas_behind, newest
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class EDM(Scheduler):
    """The sample is clean + sigma * noise, and what the model sees and says is scaled by table 1 of the paper."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    """The standard deviation of clean samples."""
    sigma_schedule: Literal["karras", "exponential"] = "karras"
    num_train_timesteps: int = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """The sign of what the model says: v is minus the paper's F."""
    rho: float = 7.0
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"

    @property
    def process(self) -> str:
        return "EDM"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None:
            raise ConfigError(f"{type(self).__name__} takes no timesteps: they follow sigma. Give sigmas.")
        if sigmas is not None:
            levels = np.asarray(sigmas, dtype=np.float32)
            if len(levels) < 2 or not (levels[:-1] > 0).all():
                raise ConfigError(
                    f"{type(self).__name__} wants two or more sigmas above 0, the last one (0 mostly) where the run "
                    f"ends. They came as {list(sigmas)}."
                )
        else:
            planned = self._levels(n)
            levels = np.append(planned, 0.0 if self.final_sigmas_type == "zero" else planned[-1]).astype(np.float32)
        values: list[float] = levels.tolist()
        return Schedule(
            sigmas=tuple(values),
            timesteps=tuple(self._clock(sigma) for sigma in values[:-1]),
            noise_scale=(self.sigma_max**2 + 1) ** 0.5,
            scales_in=tuple((sigma**2 + self.sigma_data**2) ** -0.5 for sigma in values[:-1]),  # c_in
            adds_noise=tuple(self._draws(sigma, len(values) - 1) for sigma in values[:-1]),
        )

    def _levels(self, n: int) -> Floats:
        """Karras et al. 2022, equation 5, or even steps in log sigma."""
        if n < 1:
            raise ConfigError(f"{type(self).__name__} takes 1 step or more, not {n}.")
        ramp = np.linspace(0, 1, n)
        if self.sigma_schedule == "exponential":
            return np.exp(log(self.sigma_max) + ramp * (log(self.sigma_min) - log(self.sigma_max)))
        top, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return (top + ramp * (low - top)) ** self.rho

    def _clock(self, sigma: float) -> float:
        """c_noise: what the model is told of the level."""
        return 0.25 * log(sigma)

    def _draws(self, sigma: float, turns: int) -> bool:
        return False

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return self._clean(sample.float(), prediction.float(), step.sigma)

    def _clean(self, sample: Tensor, prediction: Tensor, sigma: float) -> Tensor:
        """D = c_skip x + c_out F."""
        variance = sigma**2 + self.sigma_data**2
        out = sigma * self.sigma_data / variance**0.5
        return (
            self.sigma_data**2 / variance * sample + (out if self.prediction_type == "epsilon" else -out) * prediction
        )


@dataclass(frozen=True, kw_only=True)
class EDMEulerScheduler(EDM):
    """Karras et al. 2022, algorithm 2 without its second-order correction."""

    s_churn: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmin: float = field(default=0.0, metadata=STEP_ARGUMENT)
    s_tmax: float = field(default=inf, metadata=STEP_ARGUMENT)
    s_noise: float = field(default=1.0, metadata=STEP_ARGUMENT)

    def _gamma(self, sigma: float, turns: int) -> float:
        """Line 5. The published divisor counts the end of the run as a turn."""
        return min(self.s_churn / (turns + 1), 2**0.5 - 1) if self.s_tmin <= sigma <= self.s_tmax else 0.0

    def _draws(self, sigma: float, turns: int) -> bool:
        return self._gamma(sigma, turns) > 0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, sigma = sample.float(), step.sigma
        if step.noisy:
            sigma *= 1 + self._gamma(sigma, len(step.schedule.timesteps))
            sample = sample + self.s_noise * (sigma**2 - step.sigma**2) ** 0.5 * self._noise(noise, step)
        derivative = (sample - self._clean(sample, prediction.float(), sigma)) / sigma
        return sample + derivative * (step.next_sigma - sigma), ()


@dataclass(frozen=True, kw_only=True)
class EDMMultistep(EDM):
    """DPM-Solver++ (Lu et al. 2022b, algorithm 2) for such models. History: the last clean estimates, oldest first."""

    solver_order: int = 2
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False

    def _draws(self, sigma: float, turns: int) -> bool:
        return self._kind.startswith("sde")

    @property
    def _kind(self) -> Literal["dpmsolver++", "sde-dpmsolver++"]:
        return "dpmsolver++"

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, turns = sample.float(), len(step.schedule.timesteps)
        outputs = newest((*history, self.denoised(sample, prediction, step)), self.solver_order)
        short = self.lower_order_final and turns < 15
        order = min(len(outputs), turns - step.index if short else self.solver_order)
        order = 1 if step.last and (self.euler_at_final or step.next_sigma == 0) else order
        by = transfer(self._kind, step.level, step.target)
        if by.h:
            h = step.target.log_snr - step.level.log_snr
            terms = differences(outputs[::-1][:order], lambdas_behind(step, order), h)
            weights = phis(by.h, order)
            if order == 2 and self.solver_type == "midpoint":
                weights[1] = weights[0] / 2
            drawn = self._noise(noise, step) if step.noisy else None
            sample = move(sample, by, list(zip(weights, terms, strict=True)), drawn)
        return sample, newest(outputs, self.solver_order - 1)


@dataclass(frozen=True, kw_only=True)
class EDMDPMSolverMultistepScheduler(EDMMultistep):
    """First to third order, deterministic or not."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    algorithm_type: Literal["dpmsolver++", "sde-dpmsolver++"] = "dpmsolver++"

    @property
    def _kind(self) -> Literal["dpmsolver++", "sde-dpmsolver++"]:
        return self.algorithm_type

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        x0 = super().denoised(sample, prediction, step)
        if self.thresholding:
            return dynamic_threshold(x0, self.dynamic_thresholding_ratio, self.sample_max_value)
        return x0


@dataclass(frozen=True, kw_only=True)
class CosineDPMSolverMultistepScheduler(EDMMultistep):
    """The stochastic second order for models whose clock is an angle, as Stable Audio's (Crowson: k-diffusion).

    A sample at level sigma is a point between signal and noise at the angle atan(sigma), and the clock is its share of
    a right angle: the cosine schedule. The reference cuts noise from one Brownian path; here it is given, unit normal
    and independent in each turn, like every other scheduler's.
    """

    sigma_min: float = 0.3
    sigma_max: float = 500.0
    sigma_data: float = 1.0
    sigma_schedule: Literal["karras", "exponential"] = "exponential"
    prediction_type: Literal["epsilon", "v_prediction"] = "v_prediction"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver_order not in (1, 2):
            raise ConfigError(f"CosineDPMSolverMultistepScheduler has solver_order 1 or 2, not {self.solver_order}.")

    @property
    def _kind(self) -> Literal["sde-dpmsolver++"]:
        return "sde-dpmsolver++"

    @property
    def process(self) -> str:
        return "angles"

    def _clock(self, sigma: float) -> float:
        return atan(sigma) / (pi / 2)
