"""Samplers of score-based models in continuous time (Song et al. 2021): reverse stochastic equations, step by step."""

from dataclasses import dataclass
from math import exp, log
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from ...graph.limits import AtMost
from .base import Scheduler
from .history import History
from .keys import Positive, TrainingSteps
from .predictions import clean
from .request import Request
from .schedule import Level, Schedule, Step


def _times(n: int, end: float) -> Tensor:
    """(n,), from 1 to `end`, float32: the published numbers, down to their rounding."""
    return torch.linspace(1, end, n, dtype=torch.float32, device="cpu")


@dataclass(frozen=True, kw_only=True)
class ScoreSdeVeScheduler(Scheduler):
    """Predictor and corrector for exploding variance (Song et al. 2021, algorithms 2 and 4): x = clean + sigma noise.

    The model predicts the score, -noise / sigma, at the timestep sigma. A whole step calls it `correct_steps` times to
    walk by Langevin dynamics at one level, x' = x + e s + sqrt(2 e) noise, and once more to go to the next level,
    x' = x + g^2 s + g noise, where g^2 = sigma^2 - sigma'^2. The last step adds no noise. How far a walk goes depends
    on the mean over all rows, as published.
    """

    num_train_timesteps: TrainingSteps = 2000
    snr: float = 0.15
    """The length of a walk's steps: the ratio of the score's norm to the noise's."""
    sigma_min: Positive = 0.01
    sigma_max: Positive = 1348.0
    sampling_eps: Positive = 1e-5
    """The time at which a run ends."""
    correct_steps: Annotated[int, Ge(0), AtMost("repeats")] = 1

    accepts = "neither"

    @property
    def process(self) -> str:
        """Noise is added to the signal; the model predicts the score."""
        return "score of exploding variance"

    def plan(self, request: Request) -> Schedule:
        """`correct_steps` model calls at each level, and one that leads to the next."""
        n = request.n
        times = _times(n, self.sampling_eps)
        grid: list[float] = torch.linspace(log(self.sigma_min), log(self.sigma_max), n, device="cpu").exp().tolist()
        indices: list[int] = (times * (n - 1)).long().tolist()
        timesteps: list[float] = (self.sigma_min * (self.sigma_max / self.sigma_min) ** times).tolist()
        calls = 1 + self.correct_steps
        levels = [grid[index] for index in indices for _ in range(calls)]
        below = [grid[index - 1] if index else 0.0 for index in indices]
        targets = [
            level for k, index in enumerate(indices) for level in [grid[index]] * self.correct_steps + [below[k]]
        ]
        return Schedule(
            sigmas=(*levels, targets[-1]),
            timesteps=tuple(sigma for sigma in timesteps for _ in range(calls)),
            noise_scale=self.sigma_max,
            targets=tuple(Level(1.0, sigma) for sigma in targets),
            adds_noise=(*(True for _ in levels[1:]), False),
            places=tuple(k for k in range(n) for _ in range(calls)),
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """Tweedie's formula."""
        return sample.float() + step.sigma**2 * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 4 at the level, then algorithm 2 to the next one."""
        sample, score = sample.float(), prediction.float()
        if (step.index + 1) % (1 + self.correct_steps):
            return self._walk(sample, score, self._noise(noise, step)), ()
        diffusion = max(step.sigma**2 - step.target.sigma**2, 0) ** 0.5
        mean = sample + diffusion**2 * score
        return (mean + diffusion * self._noise(noise, step) if step.noisy else mean), ()

    def _walk(self, sample: Tensor, score: Tensor, noise: Tensor) -> Tensor:
        """Algorithm 4: one step of Langevin dynamics."""
        size = 2 * (self.snr * noise.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean()) ** 2
        return sample + size * score + (2 * size) ** 0.5 * noise


@dataclass(frozen=True, kw_only=True)
class ScoreSdeVpScheduler(Scheduler):
    """Euler and Maruyama's method for preserved variance (Song et al. 2021, equations 11 and 6).

    x' = x + b (x / 2 + s) + sqrt(b) noise, with b = beta(t) / n and the score s = -epsilon / sigma. The model predicts
    the noise, at a time from 1 to 0. The last step adds no noise.
    """

    num_train_timesteps: TrainingSteps = 2000
    beta_min: Positive = 0.1
    beta_max: Positive = 20.0
    sampling_eps: Positive = 1e-3
    """The time of the last model call."""

    accepts = "neither"

    @property
    def process(self) -> str:
        """Variance is kept over a time from 1 to 0."""
        return "score of preserved variance"

    def plan(self, request: Request) -> Schedule:
        """Even steps in time, each of length 1 / n."""
        n = request.n
        times: list[float] = _times(n, self.sampling_eps).tolist()
        levels = tuple(self._level(t) for t in (*times, max(times[-1] - 1 / n, 0)))
        return Schedule.through(levels, times, adds_noise=(*(True for _ in times[1:]), False))

    def _level(self, t: float) -> Level:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return Level(exp(log_alpha), (1 - exp(2 * log_alpha)) ** 0.5)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """(x - sigma epsilon) / alpha."""
        return clean("epsilon", sample.float(), prediction.float(), step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 6 with the drift of equation 11, reversed in time."""
        sample, score = sample.float(), -prediction.float() / step.level.sigma
        beta = (self.beta_min + step.timestep * (self.beta_max - self.beta_min)) / len(step.schedule.timesteps)
        mean = sample + beta * (sample / 2 + score)
        return (mean + beta**0.5 * self._noise(noise, step) if step.noisy else mean), ()
