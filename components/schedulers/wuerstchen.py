"""The sampler of Wuerstchen and Stable Cascade: DDPM over a time from 1 (noise) to 0 (Pernias et al. 2023)."""

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .base import Scheduler
from .history import History
from .predictions import clean
from .request import Request, listed
from .schedule import Schedule, Step
from .training_noise import variance_preserving


@dataclass(frozen=True, kw_only=True)
class DDPMWuerstchenScheduler(Scheduler):
    """DDPM (Ho et al. 2020, algorithm 2) along a cosine of continuous time (Nichol and Dhariwal 2021, equation 17).

    x' = (x - (1 - k) / sigma epsilon) / sqrt(k) + sqrt(1 - k) sigma' / sigma noise, where k = (alpha / alpha')^2. The
    model predicts the noise, at a timestep from 1 to 0. The share of signal stays within 0.0001 and 0.9999, so a run
    ends at the least noise, not at none. Raises ConfigError for timesteps that do not fall from at most 1 to above 0.
    """

    scaler: float = 1.0
    """Bends time: above 1 towards noise, as (1 - t)^scaler falls; below 1 as t^scaler."""
    s: float = 0.008
    """The offset of the cosine, in time."""

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Noise over a time from 1 to 0."""
        return "noise over time"

    def plan(self, request: Request) -> Schedule:
        """Even steps in time, or the times of the request."""
        if request.timesteps is None:
            times = torch.linspace(1.0, 0.0, request.n + 1, dtype=torch.float32, device="cpu")
        else:
            times = torch.tensor([*request.timesteps, 0.0], dtype=torch.float32, device="cpu")
            if len(times) < 2 or not 0 < times[-2] <= times[0] <= 1 or not (times.diff() < 0).all():
                raise ConfigError(
                    "DDPMWuerstchenScheduler needs timesteps that fall from at most 1 to above 0; the run ends at 0. "
                    f"Got {listed(request.timesteps)}."
                )
        levels = tuple(variance_preserving(bar) for bar in self._bars(times).tolist())
        adds_noise = (True,) * (len(times) - 1)  # drawn in the last step too, and not used
        return Schedule.through(levels, times[:-1].tolist(), adds_noise=adds_noise)

    def _bars(self, t: Tensor) -> Tensor:
        """The share of signal variance at these times, in float32 as is published: (times,) -> (times,)."""
        if self.scaler > 1:
            t = 1 - (1 - t) ** self.scaler
        elif self.scaler < 1:
            t = t**self.scaler
        angle, start = (t + self.s) / (1 + self.s), torch.tensor(self.s / (1 + self.s), device="cpu")
        return ((angle * pi / 2).cos() ** 2 / (start * pi / 2).cos() ** 2).clamp(0.0001, 0.9999)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """(x - sigma epsilon) / alpha."""
        return clean("epsilon", sample.float(), prediction.float(), step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Ho et al. 2020, algorithm 2, lines 3 and 4."""
        (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
        kept = (alpha / alpha_next) ** 2
        mean = (sample.float() - (1 - kept) / sigma * prediction.float()) / kept**0.5
        drawn = self._noise(noise, step)
        return (mean if step.last else mean + (1 - kept) ** 0.5 * sigma_next / sigma * drawn), ()
