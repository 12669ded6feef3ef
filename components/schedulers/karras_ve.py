"""Karras et al. 2022, algorithm 2, for the variance-exploding models of Song et al. 2021."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .base import Scheduler
from .history import History
from .keys import Positive
from .request import Request
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class KarrasVeScheduler(Scheduler):
    """Heun's method with churn (Karras et al. 2022, algorithm 2): noise is added before each step.

    The last step, to no noise, is one call. The model predicts the noise with its sign turned, at the timestep sigma.
    The noise that the algorithm adds before it calls the model is added at the end of the step before, so the levels
    are those that the model gets. The published levels go from sigma_max**2 to sigma_min**2 (the paper's times, of
    which sigma is the root), while a run starts from noise of sigma_max; they are kept. History: inside a whole step,
    the sample and the derivative that it started with.
    """

    sigma_min: Positive = 0.02
    sigma_max: Positive = 100.0
    s_noise: float = 1.007
    """The standard deviation of the noise that is added."""
    s_churn: float = 80.0
    """The amount of noise that is added over the whole run."""
    s_min: Positive = 0.05
    s_max: Positive = 50.0
    """Noise is added where s_min <= sigma <= s_max."""

    accepts = "neither"

    @property
    def process(self) -> str:
        """Noise is added to the signal; the model predicts minus the noise."""
        return "score of exploding variance, in units of noise"

    def plan(self, request: Request) -> Schedule:
        """Two model calls a step, at the level raised by churn and at the next one."""
        n = request.n
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
            places=tuple(call // 2 for call in range(len(levels))),
        )

    def _gamma(self, sigma: float, n: int) -> float:
        """The share that churn adds to sigma: line 5."""
        return min(self.s_churn / n, 2**0.5 - 1) if self.s_min <= sigma <= self.s_max else 0.0

    def _added(self, sigma: float, higher: float) -> float:
        return self.s_noise * max(higher**2 - sigma**2, 0) ** 0.5

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """x + sigma times the prediction, which is minus the noise."""
        return sample.float() + step.sigma * prediction.float()

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Algorithm 2, lines 7 and 8, or 10 and 11; and the noise of the next step, lines 5 and 6."""
        sample, derivative = sample.float(), -prediction.float()
        if step.index % 2 == 0:
            following = (sample, derivative) if not step.last else ()
            return sample + derivative * (step.next_sigma - step.sigma), following
        start, first = self._whole_step_start(history, step)
        out = start + (first + derivative) / 2 * (step.sigma - step.schedule.sigmas[step.index - 1])
        return (out + self._added(step.sigma, step.next_sigma) * self._noise(noise, step) if step.noisy else out), ()
