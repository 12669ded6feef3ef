"""Improved PNDM (Liu et al. 2022, section 5; Crowson's v-diffusion): Adams and Bashforth on a circle of levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan2, pi, sin

from torch import Tensor

from ...graph.errors import ConfigError
from .base import History, Scheduler
from .multistep import newest
from .pndm import ADAMS
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class IPNDMScheduler(Scheduler):
    """For models that predict v over a time from 1 (noise) to 0. History: the last noises, oldest first.

    The published levels are kept: noise is sin(pi t / 2) squared, not its sine.
    """

    num_train_timesteps: int = 1000
    trained_betas: tuple[float, ...] | None = None
    """The noise before each turn and at the end, for a run of just so many; by default it follows time."""

    @property
    def process(self) -> str:
        return "v over time"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None or sigmas is not None:
            raise ConfigError("IPNDMScheduler takes no timesteps or sigmas of one's own: its formulas need even time.")
        noise = self.trained_betas or tuple(sin((1 - k / n) * pi / 2) ** 2 for k in range(n + 1))
        if len(noise) != n + 1:
            raise ConfigError(
                f"IPNDMScheduler has {len(noise)} trained_betas, which make {len(noise) - 1} steps, not {n}."
            )
        levels = tuple(Level((1 - sigma**2) ** 0.5, sigma) for sigma in noise)
        clock = tuple(atan2(sigma, alpha) / pi * 2 for alpha, sigma in levels[:-1])
        return Schedule(sigmas=tuple(level.ratio for level in levels), timesteps=clock, levels=levels)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return step.level.alpha * sample.float() - step.level.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, (alpha, sigma) = sample.float(), step.level
        epsilon = sigma * sample + alpha * prediction.float()
        noises = newest((*history, epsilon), 4)
        mean = sum((weight * e for weight, e in zip(ADAMS[len(noises) - 1], noises, strict=True)), 0 * epsilon)
        x0 = (sample - sigma * mean) / max(alpha, 1e-8)  # the floor is published: a run starts without signal
        return step.target.alpha * x0 + step.target.sigma * mean, newest(noises, 3)
