"""The sampler of Wuerstchen and Stable Cascade: DDPM over a time from 1 (noise) to 0 (Pernias et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .base import History, Scheduler
from .diffusion import clean, variance_preserving
from .schedule import Schedule, Step


@dataclass(frozen=True, kw_only=True)
class DDPMWuerstchenScheduler(Scheduler):
    """Ho et al. 2020, algorithm 2, along a cosine of continuous time (Nichol and Dhariwal 2021, equation 17).

    The model predicts the noise and is told the time. The share of signal stays within 0.0001 and 0.9999, so a run ends
    at the least noise, not at none.
    """

    scaler: float = 1.0
    """Bends time: above 1 towards noise, as (1 - t)^scaler falls; below 1 as t^scaler."""
    s: float = 0.008

    @property
    def process(self) -> str:
        return "noise over time"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        if sigmas is not None:
            raise ConfigError("DDPMWuerstchenScheduler goes by time and takes no sigmas. Give timesteps from 1 to 0.")
        if timesteps is not None:
            times = torch.tensor([*timesteps, 0.0], dtype=torch.float32, device="cpu")
            if len(times) < 2 or not 0 < times[-2] <= times[0] <= 1 or not (times.diff() < 0).all():
                raise ConfigError(
                    "DDPMWuerstchenScheduler wants timesteps that fall from 1 to above 0; the run ends at 0. They came "
                    f"as {list(timesteps)}."
                )
        elif n < 1:
            raise ConfigError(f"DDPMWuerstchenScheduler takes 1 step or more, not {n}.")
        else:
            times = torch.linspace(1.0, 0.0, n + 1, dtype=torch.float32, device="cpu")
        levels = tuple(variance_preserving(bar) for bar in self._bars(times).tolist())
        return Schedule(
            sigmas=tuple(level.ratio for level in levels),
            timesteps=tuple(times[:-1].tolist()),
            levels=levels,
            adds_noise=(True,) * (len(times) - 1),  # drawn in the last turn too, and not used
        )

    def _bars(self, t: Tensor) -> Tensor:
        """The share of signal variance at these times, in float32 as is published: (times,) -> (times,)."""
        if self.scaler > 1:
            t = 1 - (1 - t) ** self.scaler
        elif self.scaler < 1:
            t = t**self.scaler
        angle, start = (t + self.s) / (1 + self.s), torch.tensor(self.s / (1 + self.s), device="cpu")
        return ((angle * pi / 2).cos() ** 2 / (start * pi / 2).cos() ** 2).clamp(0.0001, 0.9999)

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return clean("epsilon", sample.float(), prediction.float(), step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
        kept = (alpha / alpha_next) ** 2
        mean = (sample.float() - (1 - kept) / sigma * prediction.float()) / kept**0.5
        drawn = self._noise(noise, step)
        return (mean if step.last else mean + (1 - kept) ** 0.5 * sigma_next / sigma * drawn), ()
