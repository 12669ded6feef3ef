"""Consistency models (Song et al. 2023): one call gives the clean sample, further ones begin again with less noise."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import cos, inf, log, sin
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History, Scheduler
from .betas import alphas_cumprod
from .diffusion import variance_preserving
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class CMStochasticIterativeScheduler(Scheduler):
    """Song et al. 2023, algorithm 1, on the noise levels of EDM (Karras et al. 2022, equation 5).

    The sample is clean + sigma * noise. `timesteps` of one's own are places on the grid of training: its first is the
    noisiest level, 0 there, so [22, 0] is the noisiest level and the 22nd below it.
    """

    num_train_timesteps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    """The standard deviation of clean samples."""
    s_noise: float = 1.0
    rho: float = 7.0
    clip_denoised: bool = True

    @property
    def process(self) -> str:
        return "consistency"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            raise ConfigError(
                "CMStochasticIterativeScheduler takes no sigmas: a model knows the levels of its training. Give "
                "timesteps, places on that grid."
            )
        last = self.num_train_timesteps - 1
        if timesteps is None:
            if not 1 <= n <= self.num_train_timesteps:
                raise ConfigError(
                    f"CMStochasticIterativeScheduler takes 1 to {self.num_train_timesteps} steps, not {n}."
                )
            places = np.arange(n) * (self.num_train_timesteps // n)
        else:
            places = np.asarray(timesteps, dtype=np.int64)[::-1]
            if not len(places) or places[0] < 0 or places[-1] > last or (np.diff(places) <= 0).any():
                raise ConfigError(
                    f"CMStochasticIterativeScheduler wants falling places from {last} to 0, which came as "
                    f"{list(timesteps)}."
                )
        top, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        levels = (top + places / max(last, 1) * (low - top)) ** self.rho
        values: list[float] = np.append(levels, self.sigma_min).astype(np.float32).tolist()
        return Schedule(
            sigmas=tuple(values),
            timesteps=tuple(250 * log(sigma) for sigma in levels.tolist()),
            noise_scale=self.sigma_max,
            scales_in=tuple((sigma**2 + self.sigma_data**2) ** -0.5 for sigma in values[:-1]),
            adds_noise=(len(levels) > 1,) * len(levels),  # drawn in the last turn too, with weight 0
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """Equation 5 with the scalings of appendix C, by which the sample at sigma_min is its own answer."""
        above = step.sigma - self.sigma_min
        skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        out = above * self.sigma_data / (step.sigma**2 + self.sigma_data**2) ** 0.5
        x0 = out * prediction.float() + skip * sample.float()
        return x0.clamp(-1, 1) if self.clip_denoised else x0

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        if not step.noisy:
            return x0, ()
        std = max(step.next_sigma**2 - self.sigma_min**2, 0) ** 0.5
        return x0 + self.s_noise * std * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class ConsistencyDecoderScheduler(Scheduler):
    """The sampler of the consistency decoder, which paints the pixels of Stable Diffusion's latents (OpenAI 2023).

    The decoder was distilled on 64 of its timesteps. A run of n visits those above n even parts: 1008 and 512 for the
    two that are published.
    """

    num_train_timesteps: int = 1024
    sigma_data: float = 0.5

    @property
    def process(self) -> str:
        return "consistency decoding"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            raise ConfigError("ConsistencyDecoderScheduler goes by whole timesteps and takes no sigmas.")
        last = self.num_train_timesteps - 1
        visited = tuple(int(t) for t in timesteps) if timesteps is not None else self._distilled(n)
        if not visited or visited[0] > last or visited[-1] < 0 or any(np.diff(visited) >= 0):
            asked = f"{n} steps" if timesteps is None else f"timesteps {list(visited)}"
            raise ConfigError(
                f"ConsistencyDecoderScheduler wants falling timesteps from {last} to 0, or a number of steps well "
                f"below the 64 of its distillation; it came with {asked}."
            )
        bars = alphas_cumprod(self.num_train_timesteps, 0, 0, "squaredcos_cap_v2")
        levels = (*(variance_preserving(float(bars[t])) for t in visited), Level(1.0, 0.0))
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            noise_scale=levels[0].sigma,
            levels=levels,
            scales_in=tuple((level.ratio**2 + self.sigma_data**2) ** -0.5 / level.alpha for level in levels[:-1]),
            adds_noise=(*(True for _ in visited[1:]), False),
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
        x0 = self.denoised(sample, prediction, step)
        if not step.noisy:
            return x0, ()
        return step.target.alpha * x0 + step.target.sigma * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class SCMScheduler(Scheduler):
    """Continuous-time consistency (Lu and Song 2024; Sana-Sprint: Chen et al. 2025): levels are angles.

    The sample is cos(t) clean + sin(t) noise, and the model predicts cos(t) noise - sin(t) clean. The paper's samples
    are `sigma_data` times as large, and its pipelines divide them by it before the model and at the end; here a sample
    always has the size of the latents, so `sigma_data` is only kept.
    """

    num_train_timesteps: int = 1000
    prediction_type: Literal["trigflow"] = "trigflow"
    sigma_data: float = 0.5
    max_timesteps: float = field(default=1.57080, metadata=STEP_ARGUMENT)
    """The first angle. The published one is a little more than a right angle."""
    intermediate_timesteps: float | None = field(default=1.3, metadata=STEP_ARGUMENT)
    """The second angle of two. Other numbers of steps, and None, divide the angle evenly."""

    @property
    def process(self) -> str:
        return "trigflow"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None and sigmas is not None:
            raise ConfigError("SCMScheduler takes timesteps or sigmas, not both.")
        if sigmas is not None:
            angles = np.arctan(np.asarray(sigmas, dtype=np.float64))
        elif timesteps is not None:
            angles = np.asarray([*timesteps, 0.0])
        elif not 1 <= n <= self.num_train_timesteps:
            raise ConfigError(f"SCMScheduler takes 1 to {self.num_train_timesteps} steps, not {n}.")
        elif n == 2 and self.intermediate_timesteps is not None:
            angles = np.asarray([self.max_timesteps, self.intermediate_timesteps, 0.0])
        else:
            angles = np.linspace(self.max_timesteps, 0, n + 1)
        if len(angles) < 2 or (np.diff(angles) >= 0).any() or angles[-1] < 0 or angles[0] > 1.6:
            raise ConfigError(
                "SCMScheduler wants angles that fall from pi/2 to 0 (timesteps, without the 0), or sigmas that fall, "
                f"the last one where the run ends. They came as {list(sigmas or timesteps or angles.tolist())}."
            )
        clock: list[float] = angles.astype(np.float32).tolist()
        levels = tuple(Level(cos(t), sin(t)) for t in clock)
        return Schedule(
            sigmas=tuple(level.ratio if level.alpha > 0 else inf for level in levels),
            timesteps=tuple(clock[:-1]),
            levels=levels,
            adds_noise=(True,) * (len(clock) - 1),  # drawn in the last turn too, with weight 0
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return step.level.alpha * sample.float() - step.level.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        x0 = self.denoised(sample, prediction, step)
        return step.target.alpha * x0 + step.target.sigma * self._noise(noise, step), ()
