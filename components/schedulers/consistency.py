"""Consistency models (Song et al. 2023): one call gives the clean sample, more calls start again with less noise."""

from dataclasses import dataclass, field
from math import cos, inf, log, sin
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import Scheduler
from .history import History
from .keys import STEP_ARGUMENT, Positive, TrainingSteps
from .request import Request, listed
from .schedule import Level, Schedule, Step
from .training_noise import TrainingNoise, alphas_cumprod


@dataclass(frozen=True, kw_only=True)
class CMStochasticIterativeScheduler(Scheduler):
    """Consistency sampling (Song et al. 2023, algorithm 1) on the noise levels of EDM (Karras et al. 2022, equation 5).

    The sample is clean + sigma * noise: x' = x0 + s_noise sqrt(sigma'^2 - sigma_min^2) noise. Custom `timesteps` count
    the levels of training, of which 0 is the noisiest: [22, 0] visits the noisiest level and the 22nd below it.
    """

    num_train_timesteps: TrainingSteps = 40
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    sigma_data: Positive = 0.5
    """The standard deviation of clean samples."""
    s_noise: float = 1.0
    """The standard deviation of the noise."""
    rho: Positive = 7.0
    """The exponent of the levels' curve."""
    clip_denoised: bool = True
    """Clip the clean estimate to -1..1."""

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Noise is added to the signal, at the levels of training."""
        return "consistency"

    def plan(self, request: Request) -> Schedule:
        """Even strides on the training grid, or the indices of the request."""
        if request.timesteps is None:
            stride = self.num_train_timesteps // request.steps(self.num_train_timesteps)
            indices = np.arange(request.n) * stride
        else:
            falling = request.falling_timesteps(self.num_train_timesteps - 1, "levels of training", whole=True)
            indices = falling.astype(np.int64)[::-1]
        last = self.num_train_timesteps - 1
        top, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = (top + indices / max(last, 1) * (low - top)) ** self.rho
        values: list[float] = np.append(levels, self.sigma_min).astype(np.float32).tolist()
        return Schedule(
            sigmas=tuple(values),
            timesteps=tuple(250 * log(sigma) for sigma in levels.tolist()),
            noise_scale=self.sigma_max,
            scales_in=tuple((sigma**2 + self.sigma_data**2) ** -0.5 for sigma in values[:-1]),
            adds_noise=(len(levels) > 1,) * len(levels),  # drawn in the last step too, with weight 0
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """Equation 5 with the scalings of appendix C, by which a sample at sigma_min stays as it is."""
        above = step.sigma - self.sigma_min
        skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        out = above * self.sigma_data / (step.sigma**2 + self.sigma_data**2) ** 0.5
        x0 = out * prediction.float() + skip * sample.float()
        return x0.clamp(-1, 1) if self.clip_denoised else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 1: the clean estimate, and noise up to the next level."""
        x0 = self.denoised(sample, prediction, step)
        if not step.noisy:
            return x0, ()
        std = max(step.next_sigma**2 - self.sigma_min**2, 0) ** 0.5
        return x0 + self.s_noise * std * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class ConsistencyDecoderScheduler(Scheduler):
    """The sampler of the consistency decoder, which paints the pixels of Stable Diffusion's latents (OpenAI 2023).

    x' = alpha' x0 + sigma' noise. The decoder was distilled on 64 of its timesteps. A run of n visits those above n
    even parts: 1008 and 512 for the two steps that are published.
    """

    num_train_timesteps: TrainingSteps = 1024
    sigma_data: Positive = 0.5
    """The standard deviation of clean samples."""

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Variance is kept, at the timesteps of distillation."""
        return "consistency decoding"

    def plan(self, request: Request) -> Schedule:
        """Timesteps of the distillation, or those of the request."""
        timesteps = self._distilled(request.n)
        if request.timesteps is not None:
            timesteps = tuple(int(t) for t in request.falling_timesteps(self.num_train_timesteps - 1, whole=True))
        elif any(np.diff(timesteps) >= 0) or timesteps[0] >= self.num_train_timesteps:
            raise ConfigError(
                f"ConsistencyDecoderScheduler needs far fewer steps than the 64 of its distillation, got {request.n}. "
                "Use 1 or 2 steps, or pass timesteps."
            )
        training = TrainingNoise(alphas_cumprod(self.num_train_timesteps, 0, 0, "squaredcos_cap_v2"))
        levels = (*(training.level(t) for t in timesteps), Level(1.0, 0.0))
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=timesteps,
            noise_scale=levels[0].sigma,
            levels=levels,
            scales_in=tuple((level.ratio**2 + self.sigma_data**2) ** -0.5 / level.alpha for level in levels[:-1]),
            adds_noise=(*(True for _ in timesteps[1:]), False),
        )

    def _distilled(self, n: int) -> tuple[int, ...]:
        stride = self.num_train_timesteps // 64
        parts = (int((self.num_train_timesteps - 1) * (n - k) / n) // stride + 1 for k in range(n))
        return tuple(min(part, 63) * stride for part in parts)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """c_skip and c_out of Karras et al. 2022, table 1, on a sample that keeps its variance."""
        alpha, variance = step.level.alpha, step.level.ratio**2 + self.sigma_data**2
        skip, out = self.sigma_data**2 / variance / alpha, step.level.ratio * self.sigma_data / variance**0.5
        return out * prediction.float() + skip * sample.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The clean estimate, and noise up to the next level."""
        x0 = self.denoised(sample, prediction, step)
        if not step.noisy:
            return x0, ()
        return step.target.alpha * x0 + step.target.sigma * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class SCMScheduler(Scheduler):
    """Continuous-time consistency (Lu and Song 2024; Sana-Sprint: Chen et al. 2025): levels are angles.

    The sample is cos(t) clean + sin(t) noise, and the model predicts v = cos(t) noise - sin(t) clean:
    x' = cos(t') (cos(t) x - sin(t) v) + sin(t') noise. The paper's samples
    are `sigma_data` times as large, and its pipelines divide them by it before the model and at the end; here a sample
    always has the size of the latents, so `sigma_data` is only kept.
    """

    num_train_timesteps: TrainingSteps = 1000
    prediction_type: Literal["trigflow"] = "trigflow"
    sigma_data: Positive = 0.5
    max_timesteps: float = field(default=1.57080, metadata=STEP_ARGUMENT)
    """The first angle. The published one is a little more than a right angle."""
    intermediate_timesteps: float | None = field(default=1.3, metadata=STEP_ARGUMENT)
    """The second angle of two. Other numbers of steps, and None, divide the angle evenly."""

    @property
    def process(self) -> str:
        """Levels as angles, at the timesteps of the same name."""
        return "trigflow"

    def plan(self, request: Request) -> Schedule:
        """Even angles, the published two, or those of the request."""
        n = request.n
        if request.sigmas is not None:
            angles = np.arctan(np.asarray(request.sigmas, dtype=np.float64))
        elif request.timesteps is not None:
            angles = np.asarray([*request.timesteps, 0.0])
        elif request.steps(self.num_train_timesteps) == 2 and self.intermediate_timesteps is not None:
            angles = np.asarray([self.max_timesteps, self.intermediate_timesteps, 0.0])
        else:
            angles = np.linspace(self.max_timesteps, 0, n + 1)
        if len(angles) < 2 or (np.diff(angles) >= 0).any() or angles[-1] < 0 or angles[0] > 1.6:
            raise ConfigError(
                "SCMScheduler needs timesteps (angles, without the last 0) that fall from at most pi/2 to above 0, or "
                "sigmas that fall, the last one where the run ends. "
                f"Got {listed(request.sigmas or request.timesteps or angles.tolist())}."
            )
        timesteps: list[float] = angles.astype(np.float32).tolist()
        levels = tuple(Level(cos(t), sin(t)) for t in timesteps)
        return Schedule(
            sigmas=tuple(level.ratio if level.alpha > 0 else inf for level in levels),
            timesteps=tuple(timesteps[:-1]),
            levels=levels,
            adds_noise=(True,) * (len(timesteps) - 1),  # drawn in the last step too, with weight 0
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """cos(t) x - sin(t) v."""
        return step.level.alpha * sample.float() - step.level.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """The clean estimate, turned by the next angle."""
        x0 = self.denoised(sample, prediction, step)
        return step.target.alpha * x0 + step.target.sigma * self._noise(noise, step), ()
