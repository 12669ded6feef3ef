"""Denoising diffusion probabilistic models: Ho, Jain and Abbeel 2020."""

from dataclasses import dataclass
from math import log
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .base import Scheduler
from .history import History
from .keys import BetaKeys, ClipKeys, SpacingKeys, ThresholdKeys, ZeroSNRKeys
from .predictions import Prediction, clean_estimate
from .request import Request
from .schedule import Level, Schedule, Step
from .spacing import Spacing
from .training_noise import TrainingNoise, require_signal
from .whole_timesteps import to_the_next, visited_timesteps

Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"]
Variance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]


@dataclass(frozen=True, kw_only=True)
class DDPM(Scheduler, BetaKeys, SpacingKeys, ZeroSNRKeys, ThresholdKeys, ClipKeys):
    """Ho et al. 2020, algorithm 2, under two published names."""

    beta_schedule: Betas = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"
    variance_type: Variance = "fixed_small"
    """small: the variance of q(x_next | x, x0). large: beta. With _log it is the same number, kept as a logarithm.

    learned, learned_range (Nichol and Dhariwal 2021): the prediction has twice the sample's channels, the variance
    last.
    """

    accepts = "timesteps"

    @property
    def process(self) -> str:
        """Diffusion."""
        return "diffusion"

    def plan(self, request: Request) -> Schedule:
        """Whole timesteps, to the next one and to a clean sample; noise is drawn above timestep 0."""
        spacing = self.timestep_spacing, self.steps_offset
        timesteps = visited_timesteps(request, self.num_train_timesteps, *spacing)
        training = TrainingNoise.of(self)
        require_signal(request.scheduler, self.prediction_type, training.level(timesteps[0]))
        return to_the_next(timesteps, training, Level(1.0, 0.0), [t > 0 for t in timesteps])

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        """The clean sample that this prediction points to, thresholded or clipped as the config chooses."""
        mean, _ = split_variance(type(self).__name__, self.variance_type, sample, prediction)
        return clean_estimate(self, self.prediction_type, sample, mean, step.level)

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        """Equation 7: the mean of q(x_next | x, x0), and noise of the chosen variance."""
        x0, sample = self.denoised(sample, prediction, step), sample.float()
        if not step.noisy:
            return posterior_mean(sample, x0, step), ()
        _, variance = split_variance(type(self).__name__, self.variance_type, sample, prediction)
        std = posterior_std(self.variance_type, variance, step)
        return posterior_mean(sample, x0, step) + std * self._noise(noise, step), ()


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(DDPM):
    """DDPM: ancestral sampling over whole timesteps (Ho et al. 2020, algorithm 2).

    x' = alpha' beta / sigma^2 x0 + sqrt(1 - beta) sigma'^2 / sigma^2 x + std noise (equation 7), where beta =
    1 - (alpha / alpha')^2 and std is that of `variance_type`. Raises ConfigError for a learned variance where the
    prediction has not twice the sample's channels.
    """


@dataclass(frozen=True, kw_only=True)
class DDPMParallelScheduler(DDPM):
    """DDPMScheduler, as configs of parallel pipelines call it (ParaDiGMS: Shih et al. 2023)."""


def posterior_mean(sample: Tensor, x0: Tensor, step: Step) -> Tensor:
    """The mean of q(x_next | x, x0): Ho et al. 2020, equation 7, between any two levels that keep variance."""
    (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
    kept = (alpha / alpha_next) ** 2  # the paper's alpha_t, here from one visited timestep to the next
    beta = 1 - kept
    return alpha_next * beta / sigma**2 * x0 + kept**0.5 * sigma_next**2 / sigma**2 * sample


def posterior_std(kind: Variance, predicted: Tensor, step: Step) -> Tensor | float:
    """The standard deviation of the noise that a step adds.

    predicted: the variance itself ("learned"), or where between the small and the large one its logarithm lies, from -1
    to 1 ("learned_range": Nichol and Dhariwal 2021, equation 15). Not read for the fixed kinds.
    """
    (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
    large = 1 - (alpha / alpha_next) ** 2
    small = max(sigma_next**2 / sigma**2 * large, 1e-20)  # the floor is published: a logarithm is taken
    match kind:
        case "fixed_small" | "fixed_small_log":
            return small**0.5
        case "fixed_large" | "fixed_large_log":
            return large**0.5
        case "learned":
            return predicted.float() ** 0.5
        case "learned_range":
            share = (predicted.float() + 1) / 2
            return (0.5 * (share * log(large) + (1 - share) * log(small))).exp()


def split_variance(scheduler: str, kind: Variance, sample: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a prediction (batch, 2 channels, ...); the prediction itself, twice, for fixed kinds."""
    if not kind.startswith("learned"):
        return prediction, prediction
    channels = sample.shape[1]
    if prediction.shape[1] != 2 * channels:
        raise ConfigError(
            f"{scheduler}(variance_type={kind!r}) needs a prediction of {2 * channels} channels, the variance last, "
            f"got {prediction.shape[1]}. Set variance_type='fixed_small' for a model that predicts no variance."
        )
    return prediction[:, :channels], prediction[:, channels:]
