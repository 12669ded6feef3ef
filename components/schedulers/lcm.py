"""Consistency models in latent space, and their trajectories: one call goes all the way to the clean sample."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import STEP_ARGUMENT, History
from .betas import BetaSchedule, Floats, Spacing
from .diffusion import Clipped, Prediction, ZeroTerminalSNR, noise_in, variance_preserving
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class Distilled(Clipped, ZeroTerminalSNR):
    """What the schedulers of distilled models share: they visit a few of the timesteps of their distillation."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: BetaSchedule = "scaled_linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    original_inference_steps: int = 50
    """How many timesteps the model was distilled on."""
    clip_sample: bool = False
    set_alpha_to_one: bool = True
    timestep_scaling: float = 10.0

    def _spaced(self, n: int) -> Floats:
        distilled = self.original_inference_steps
        if n > distilled:
            raise ConfigError(
                f"{type(self).__name__} was distilled on {distilled} timesteps, and cannot visit {n}. Take fewer "
                "steps, or set original_inference_steps."
            )
        falling = np.arange(distilled, 0, -1) * (self.num_train_timesteps // distilled) - 1
        return falling[np.floor(np.linspace(0, distilled, n, endpoint=False)).astype(np.int64)].astype(np.float64)

    def _at(self, t: int) -> Level:
        return variance_preserving(float(self.alphas_cumprod[t]))

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return self._bounded(super().denoised(sample, prediction, step))


@dataclass(frozen=True, kw_only=True)
class LCMScheduler(Distilled):
    """Luo et al. 2023 (latent consistency models), algorithm 3: to the clean sample, then fresh noise up again."""

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        visited = tuple(int(t) for t in self._visited(n, timesteps).round())
        levels = (*(self._at(t) for t in visited), Level(1.0, 0.0))
        self._refuse_no_signal(levels[0].alpha)
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            levels=levels,
            adds_noise=(*(True for _ in visited[1:]), False),
        )

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        scaled, sigma_data = step.timestep * self.timestep_scaling, 0.5  # Luo et al., appendix: as they were trained
        skip = sigma_data**2 / (scaled**2 + sigma_data**2)
        out = scaled / (scaled**2 + sigma_data**2) ** 0.5
        consistent = out * self.denoised(sample, prediction, step) + skip * sample
        if not step.noisy:
            return consistent, ()
        return step.target.alpha * consistent + step.target.sigma * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class TCDScheduler(Distilled):
    """Zheng et al. 2024 (trajectory consistency distillation), algorithm 4: some way below the next level, and up."""

    eta: float = field(default=0.3, metadata=STEP_ARGUMENT)
    """Their gamma: how far below, as a share of the next timestep. At 0 nothing is drawn, at 1 it goes all the way."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eta <= 1:
            raise ConfigError(f"TCDScheduler wants an eta from 0 to 1, not {self.eta}.")

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        visited = tuple(int(t) for t in self._visited(n, timesteps).round())
        levels = tuple(self._at(t) for t in (*visited, 0))
        self._refuse_no_signal(levels[0].alpha)
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=visited,
            levels=levels,
            adds_noise=(*(self.eta > 0 for _ in visited[1:]), False),
        )

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        after = 0 if step.last else int(step.schedule.timesteps[step.index + 1])
        below = self._at(int(np.floor(np.float32(1 - self.eta) * np.float32(after))))
        epsilon = noise_in(self.prediction_type, sample, prediction.float(), step.level)
        out = below.alpha * self.denoised(sample, prediction, step) + below.sigma * epsilon
        if not step.noisy:
            return out, ()
        keep = step.target.alpha / below.alpha
        return keep * out + max(1 - keep**2, 0) ** 0.5 * self._noise(noise, step), ()
