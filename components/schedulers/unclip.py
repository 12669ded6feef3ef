"""The sampler of unCLIP's prior, decoder and upscaler (Ramesh et al. 2022), which Kandinsky's prior uses too."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from .arrays import Floats
from .base import Scheduler
from .ddpm import posterior_mean, posterior_std, split_variance
from .history import History
from .keys import ClipKeys, TrainingSteps
from .predictions import clean_estimate
from .request import Request
from .schedule import Level, Schedule, Step
from .spacing import rounded, visited
from .training_noise import TrainingNoise, alphas_cumprod
from .whole_timesteps import to_the_next


@dataclass(frozen=True, kw_only=True)
class UnCLIPScheduler(Scheduler, ClipKeys):
    """DDPM (Ho et al. 2020, algorithm 2) on cosine betas, over timesteps spread from the first to the last.

    The prior's samples are embeddings, the decoder's are pixels: a sample is (batch, ...) of any shape. With
    "learned_range" it has channels second, and the prediction has twice as many.
    """

    num_train_timesteps: TrainingSteps = 1000
    variance_type: Literal["fixed_small_log", "learned_range"] = "fixed_small_log"
    prediction_type: Literal["epsilon", "sample"] = "epsilon"
    beta_schedule: Literal["squaredcos_cap_v2"] = "squaredcos_cap_v2"

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Diffusion."""
        return "diffusion"

    def plan(self, request: Request) -> Schedule:
        """From each timestep to the next, and to a clean sample; noise is drawn above timestep 0."""
        timesteps = rounded(visited(request, self.num_train_timesteps, self._spread))
        training = TrainingNoise(alphas_cumprod(self.num_train_timesteps, 0, 0, self.beta_schedule))
        return to_the_next(timesteps, training, Level(1.0, 0.0), [t > 0 for t in timesteps])

    def _spread(self, n: int) -> Floats:
        last = self.num_train_timesteps - 1
        return np.array([last]) if n == 1 else (np.arange(n) * (last / (n - 1)))[::-1]

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, clipped as the config chooses."""
        mean, _ = split_variance(type(self).__name__, self.variance_type, sample, prediction)
        return clean_estimate(self, self.prediction_type, sample, mean, step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Ho et al. 2020, equation 7, and noise of the chosen variance."""
        x0, sample = self.denoised(sample, prediction, step), sample.float()
        if not step.noisy:
            return posterior_mean(sample, x0, step), ()
        _, variance = split_variance(type(self).__name__, self.variance_type, sample, prediction)
        std = posterior_std(self.variance_type, variance, step)
        return posterior_mean(sample, x0, step) + std * self._noise(noise, step), ()
