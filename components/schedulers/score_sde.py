"""Samplers of score-based models in continuous time (Song et al. 2021): reverse stochastic equations, step by step."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History, Scheduler
from .diffusion import clean
from .schedule import Level, Schedule, Step


def _times(where: str, n: int, end: float, timesteps: object, sigmas: object) -> Tensor:
    """(n,), from 1 to `end`, float32: the published numbers, down to their rounding."""
    if timesteps is not None or sigmas is not None:
        raise ConfigError(f"{where} takes no timesteps or sigmas of one's own: its formulas need even time.")
    if n < 1:
        raise ConfigError(f"{where} takes 1 step or more, not {n}.")
    return torch.linspace(1, end, n, dtype=torch.float32, device="cpu")


@dataclass(frozen=True, kw_only=True)
class ScoreSdeVeScheduler(Scheduler):
    """Predictor and corrector where noise is added and variance explodes: Song et al. 2021, algorithms 2 and 4.

    The model predicts the score, -noise / sigma, and is told sigma. A step asks it `correct_steps` times to walk by
    Langevin dynamics at one level, and once more to go to the next; the last turn leaves its noise out. How far a walk
    goes depends on the mean over all rows, as published.
    """

    num_train_timesteps: int = 2000
    snr: float = 0.15
    """How long a walk's steps are: the ratio of the score's norm to the noise's."""
    sigma_min: float = 0.01
    sigma_max: float = 1348.0
    sampling_eps: float = 1e-5
    """The time at which a run ends."""
    correct_steps: int = 1

    @property
    def process(self) -> str:
        return "score of exploding variance"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        times = _times("ScoreSdeVeScheduler", n, self.sampling_eps, timesteps, sigmas)
        grid: list[float] = torch.linspace(log(self.sigma_min), log(self.sigma_max), n, device="cpu").exp().tolist()
        places: list[int] = (times * (n - 1)).long().tolist()
        told: list[float] = (self.sigma_min * (self.sigma_max / self.sigma_min) ** times).tolist()
        turns = 1 + self.correct_steps
        levels = [grid[place] for place in places for _ in range(turns)]
        below = [grid[place - 1] if place else 0.0 for place in places]
        targets = [level for k, place in enumerate(places) for level in [grid[place]] * self.correct_steps + [below[k]]]
        return Schedule(
            sigmas=(*levels, targets[-1]),
            timesteps=tuple(sigma for sigma in told for _ in range(turns)),
            noise_scale=self.sigma_max,
            targets=tuple(Level(1.0, sigma) for sigma in targets),
            adds_noise=(*(True for _ in levels[1:]), False),
            whole_step_of=tuple(k for k in range(n) for _ in range(turns)),
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """Tweedie's formula."""
        return sample.float() + step.sigma**2 * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
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
    """Euler and Maruyama's method where variance is preserved: Song et al. 2021, equations 11 and 6.

    The model predicts the noise and is told a time from 1 to 0. The last turn leaves its noise out.
    """

    num_train_timesteps: int = 2000
    beta_min: float = 0.1
    beta_max: float = 20.0
    sampling_eps: float = 1e-3

    @property
    def process(self) -> str:
        return "score of preserved variance"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        times: list[float] = _times("ScoreSdeVpScheduler", n, self.sampling_eps, timesteps, sigmas).tolist()
        levels = tuple(self._level(t) for t in (*times, max(times[-1] - 1 / n, 0)))
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=tuple(times),
            levels=levels,
            adds_noise=(*(True for _ in times[1:]), False),
        )

    def _level(self, t: float) -> Level:
        log_alpha = -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return Level(exp(log_alpha), (1 - exp(2 * log_alpha)) ** 0.5)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return clean("epsilon", sample.float(), prediction.float(), step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, score = sample.float(), -prediction.float() / step.level.sigma
        beta = (self.beta_min + step.timestep * (self.beta_max - self.beta_min)) / len(step.schedule.timesteps)
        mean = sample + beta * (sample / 2 + score)
        return (mean + beta**0.5 * self._noise(noise, step) if step.noisy else mean), ()
