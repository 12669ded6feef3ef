"""Improved PNDM (Liu et al. 2022, section 5; Crowson's v-diffusion): Adams and Bashforth on a circle of levels."""

from dataclasses import dataclass
from math import atan2, pi, sin

from torch import Tensor

from ...graph.errors import ConfigError
from .base import Scheduler
from .history import History, newest
from .keys import TrainingSteps
from .pndm import ADAMS
from .request import Request
from .schedule import Level, Schedule, Step


@dataclass(frozen=True, kw_only=True)
class IPNDMScheduler(Scheduler):
    """Improved PNDM (Liu et al. 2022, section 5), for models that predict v over a time from 1 (noise) to 0.

    With e the weighted mean of the last noises (equation 12): x' = alpha' (x - sigma e) / alpha + sigma' e. The
    published levels are kept: noise is sin(pi t / 2) squared, not its sine. History: the last noises, oldest first.
    Raises ConfigError for a number of steps that `trained_betas` do not fit.
    """

    num_train_timesteps: TrainingSteps = 1000
    trained_betas: tuple[float, ...] | None = None
    """The noise (0 to 1) before each step and at the end, for a run of just so many; None: it follows time."""

    accepts = "neither"

    @property
    def process(self) -> str:
        """v over a time from 1 to 0."""
        return "v over time"

    def plan(self, request: Request) -> Schedule:
        """Even steps in time, whose timestep is the angle of the level as a share of a right angle."""
        n = request.n
        noise = self.trained_betas or tuple(sin((1 - k / n) * pi / 2) ** 2 for k in range(n + 1))
        if len(noise) != n + 1:
            raise ConfigError(
                f"IPNDMScheduler has {len(noise)} trained_betas, which are for {len(noise) - 1} steps, got {n} steps. "
                f"Use {len(noise) - 1} steps, or leave out trained_betas."
            )
        levels = tuple(Level((1 - sigma**2) ** 0.5, sigma) for sigma in noise)
        timesteps = tuple(atan2(sigma, alpha) / pi * 2 for alpha, sigma in levels[:-1])
        return Schedule.through(levels, timesteps)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """alpha x - sigma v."""
        return step.level.alpha * sample.float() - step.level.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 12 for the noises of the last steps, and DDIM's step along their mean."""
        sample, (alpha, sigma) = sample.float(), step.level
        epsilon = sigma * sample + alpha * prediction.float()
        noises = newest((*history, epsilon), 4)
        mean = sum((weight * e for weight, e in zip(ADAMS[len(noises) - 1], noises, strict=True)), 0 * epsilon)
        x0 = (sample - sigma * mean) / max(alpha, 1e-8)  # the floor is published: a run starts without signal
        return step.target.alpha * x0 + step.target.sigma * mean, newest(noises, 3)
