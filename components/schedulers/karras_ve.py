"""Karras et al. 2022, algorithm 2, for the variance-exploding models of Song et al. 2021."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History, Scheduler
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class KarrasVeScheduler(Scheduler):
    """Heun's method with churn: noise is added before each step. The last step, to no noise, is one turn.

    The model predicts the noise with its sign turned, and is told sigma. What the algorithm adds before it asks the
    model is added at the end of the turn before, so the levels are those that the model sees. The published levels go
    from sigma_max**2 to sigma_min**2 (the paper's times, of which sigma is the root), while a run starts from noise of
    sigma_max; they are kept. History: in the middle of a step, the sample and the derivative that it started with.
    """

    sigma_min: float = 0.02
    sigma_max: float = 100.0
    s_noise: float = 1.007
    s_churn: float = 80.0
    s_min: float = 0.05
    s_max: float = 50.0
    """Noise is added where sigma lies between s_min and s_max."""

    @property
    def process(self) -> str:
        return "score of exploding variance, in units of noise"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if timesteps is not None or sigmas is not None:
            raise ConfigError(
                "KarrasVeScheduler takes no timesteps or sigmas of one's own: it plans its levels itself."
            )
        if n < 1:
            raise ConfigError(f"KarrasVeScheduler takes 1 step or more, not {n}.")
        ramp = np.linspace(0, 1, n)
        visited: list[float] = (
            (self.sigma_max ** (2 - 2 * ramp) * self.sigma_min ** (2 * ramp)).astype(np.float32).tolist()
        )
        raised = [sigma * (1 + self._gamma(sigma, n)) for sigma in visited]
        levels = [raised[0]]
        for sigma, higher in zip(visited[1:], raised[1:], strict=True):
            levels += [sigma, higher]
        churns = (higher > sigma for sigma, higher in zip(levels[1::2], levels[2::2], strict=True))
        return Schedule(
            sigmas=(*levels, 0.0),
            timesteps=tuple(levels),
            noise_scale=(self.sigma_max**2 + self._added(visited[0], raised[0]) ** 2) ** 0.5,
            adds_noise=(False, *(noisy for churn in churns for noisy in (churn, False))),
            whole_step_of=tuple(turn // 2 for turn in range(len(levels))),
        )

    def _gamma(self, sigma: float, n: int) -> float:
        """By how much churn raises sigma: line 5."""
        return min(self.s_churn / n, 2**0.5 - 1) if self.s_min <= sigma <= self.s_max else 0.0

    def _added(self, sigma: float, higher: float) -> float:
        return self.s_noise * max(higher**2 - sigma**2, 0) ** 0.5

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return sample.float() + step.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample, derivative = sample.float(), -prediction.float()
        if step.index % 2 == 0:
            following = (sample, derivative) if not step.last else ()
            return sample + derivative * (step.next_sigma - step.sigma), following
        if not history:
            raise self._refuse_middle(step)
        start, first = history
        out = start + (first + derivative) / 2 * (step.sigma - step.schedule.sigmas[step.index - 1])
        return (out + self._added(step.sigma, step.next_sigma) * self._noise(noise, step) if step.noisy else out), ()
