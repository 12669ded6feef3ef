"""Denoising diffusion probabilistic models: Ho, Jain and Abbeel 2020."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Literal

from torch import Tensor

from ...graph.errors import ConfigError
from .base import History, Scheduler
from .betas import Float32s, Floats, Spacing
from .diffusion import Clipped, Prediction, ZeroTerminalSNR, clean, variance_preserving
from .schedule import Schedule, Step

Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"]
Variance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]


@dataclass(frozen=True, kw_only=True)
class Ancestral(Scheduler):
    """Ho et al. 2020, algorithm 2 and equation 7, between any two levels that keep variance.

    With a learned variance (Nichol and Dhariwal 2021) the prediction has twice the sample's channels: first what
    `prediction_type` says, then the variance ("learned") or where between the fixed ones its logarithm lies, from -1
    to 1 ("learned_range", equation 15 there).
    """

    variance_type: Variance = "fixed_small"
    """small: the variance of q(x_next | x, x0). large: beta. With _log it is the same number, kept as a logarithm."""

    def advance(
        self, sample: Tensor, prediction: Tensor, step: Step, history: History = (), noise: Tensor | None = None
    ) -> tuple[Tensor, History]:
        sample = sample.float()
        (alpha, sigma), (alpha_next, sigma_next) = step.level, step.target
        kept = (alpha / alpha_next) ** 2  # the paper's alpha_t, here from one visited timestep to the next
        beta = 1 - kept
        x0 = self.denoised(sample, prediction, step)
        mean = alpha_next * beta / sigma**2 * x0 + kept**0.5 * sigma_next**2 / sigma**2 * sample  # equation 7
        if not step.noisy:
            return mean, ()
        small = max(sigma_next**2 / sigma**2 * beta, 1e-20)  # the floor is published: a logarithm is taken
        return mean + self._std(sample, prediction, small, beta) * self._noise(noise, step), ()

    def _std(self, sample: Tensor, prediction: Tensor, small: float, large: float) -> Tensor | float:
        match self.variance_type:
            case "fixed_small" | "fixed_small_log":
                return small**0.5
            case "fixed_large" | "fixed_large_log":
                return large**0.5
            case "learned":
                return self._split(sample, prediction)[1].float() ** 0.5
            case "learned_range":
                share = (self._split(sample, prediction)[1].float() + 1) / 2
                return (0.5 * (share * log(large) + (1 - share) * log(small))).exp()

    def _split(self, sample: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of a prediction (batch, channels or twice as many, ...)."""
        if not self.variance_type.startswith("learned"):
            return prediction, prediction
        channels = sample.shape[1]
        if prediction.shape[1] != 2 * channels:
            raise ConfigError(
                f"{type(self).__name__}(variance_type={self.variance_type!r}) wants a prediction of {2 * channels} "
                f"channels, the variance last; it came with {prediction.shape[1]}. For a model that predicts no "
                "variance, choose variance_type='fixed_small'."
            )
        return prediction[:, :channels], prediction[:, channels:]


def ancestral(visited: Floats, bars: Float32s) -> Schedule:
    """From each visited timestep to the next, and to a clean sample; noise is drawn above timestep 0."""
    whole = tuple(int(t) for t in visited.round())
    levels = (*(variance_preserving(float(bars[t])) for t in whole), variance_preserving(1.0))
    return Schedule(
        sigmas=tuple(level.ratio for level in levels),
        timesteps=whole,
        levels=levels,
        adds_noise=tuple(t > 0 for t in whole),
    )


@dataclass(frozen=True, kw_only=True)
class DDPMScheduler(Ancestral, Clipped, ZeroTerminalSNR):
    """Ancestral sampling over whole timesteps."""

    beta_schedule: Betas = "linear"
    prediction_type: Prediction = "epsilon"
    timestep_spacing: Spacing = "leading"

    def steps(
        self,
        n: int,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        image_tokens: int | None = None,
    ) -> Schedule:
        self._refuse_sigmas(sigmas)
        schedule = ancestral(self._visited(n, timesteps), self.alphas_cumprod)
        self._refuse_no_signal(schedule.levels[0].alpha)
        return schedule

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        mean, _ = self._split(sample, prediction)
        return self._bounded(clean(self.prediction_type, sample.float(), mean.float(), step.level))
