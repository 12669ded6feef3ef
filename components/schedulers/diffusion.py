"""What the schedulers of diffusion models share: the noise that they were trained with, and what a prediction means."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

import numpy as np
from torch import Tensor

from ...graph.errors import ConfigError
from . import betas
from .base import Scheduler
from .betas import AnyBetaSchedule, Float32s, Floats, Spacing
from .schedule import Level, Step

Prediction = Literal["epsilon", "sample", "v_prediction"]
AnyPrediction = Literal["epsilon", "sample", "original_sample", "v_prediction"]
FlowPrediction = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]
EveryPrediction = Literal["epsilon", "sample", "original_sample", "v_prediction", "flow_prediction"]


@dataclass(frozen=True, kw_only=True)
class DiffusionScheduler(Scheduler):
    """The published keys that all schedulers of diffusion models have."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: AnyBetaSchedule = "linear"
    trained_betas: tuple[float, ...] | None = None
    prediction_type: EveryPrediction = "epsilon"
    timestep_spacing: Spacing = "linspace"
    steps_offset: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ConfigError(
                f"{type(self).__name__} has {len(self.trained_betas)} trained_betas for {self.num_train_timesteps} "
                "training timesteps (num_train_timesteps); it needs one for each."
            )

    @property
    def alphas_cumprod(self) -> Float32s:
        """The share of signal variance at each training timestep, falling; worked out once for each config."""
        return self._alphas_cumprod(zero_terminal_snr=False)

    def _alphas_cumprod(self, zero_terminal_snr: bool) -> Float32s:
        return betas.alphas_cumprod(
            self.num_train_timesteps,
            self.beta_start,
            self.beta_end,
            self.beta_schedule,
            self.trained_betas,
            zero_terminal_snr,
        )

    def denoised(self, sample: Tensor, prediction: Tensor, step: Step) -> Tensor:
        return clean(self.prediction_type, sample.float(), prediction.float(), step.level)

    def _visited(self, n: int, timesteps: Sequence[float] | None) -> Floats:
        """The timesteps of a run, falling: as asked for, or by the published spacing."""
        last = self.num_train_timesteps - 1
        if timesteps is None:
            if not 1 <= n <= self.num_train_timesteps:
                raise ConfigError(f"{type(self).__name__} takes 1 to {self.num_train_timesteps} steps, not {n}.")
            visited = self._spaced(n)
            way_out = f"steps_offset is {self.steps_offset}: take fewer steps or a smaller offset."
        else:
            visited = np.asarray(timesteps, dtype=np.float64)
            way_out = "Timesteps fall, and are counted in training timesteps."
            if visited.ndim != 1 or not len(visited) or (np.diff(visited) >= 0).any():
                raise ConfigError(f"{type(self).__name__} wants falling timesteps, which came as {list(timesteps)}.")
        if visited[0] > last or visited[-1] < 0:
            raise ConfigError(
                f"{type(self).__name__} was trained at timesteps 0 to {last}, but the run would go from "
                f"{visited[0]:g} to {visited[-1]:g}. {way_out}"
            )
        return visited

    def _spaced(self, n: int) -> Floats:
        return betas.spaced(self.timestep_spacing, n, self.num_train_timesteps, self.steps_offset)

    def _refuse_no_signal(self, alpha: float) -> None:
        """A run that starts without any signal cannot divide by it."""
        if alpha == 0 and self.prediction_type == "epsilon":
            raise ConfigError(
                f"{type(self).__name__} would start at a timestep without signal, where epsilon says nothing about the "
                "clean sample. Zero terminal SNR needs prediction_type='v_prediction', or set "
                "rescale_betas_zero_snr=False."
            )

    def _refuse_sigmas(self, sigmas: Sequence[float] | None) -> None:
        if sigmas is not None:
            raise ConfigError(
                f"{type(self).__name__} goes by whole timesteps and takes no sigmas. Give timesteps, or use a "
                "scheduler that does, such as EulerDiscreteScheduler."
            )


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalSNR(DiffusionScheduler):
    """A scheduler that can make the training noise end without signal (Lin et al. 2023)."""

    rescale_betas_zero_snr: bool = False

    @property
    def alphas_cumprod(self) -> Float32s:
        return self._alphas_cumprod(zero_terminal_snr=self.rescale_betas_zero_snr)


@dataclass(frozen=True, kw_only=True)
class Thresholded(DiffusionScheduler):
    """A scheduler that can keep the clean estimate in the range of pixels, row by row."""

    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0

    def _bounded(self, clean: Tensor) -> Tensor:
        if self.thresholding:
            return dynamic_threshold(clean, self.dynamic_thresholding_ratio, self.sample_max_value)
        return clean


@dataclass(frozen=True, kw_only=True)
class Clipped(Thresholded):
    """A scheduler that can also cut the clean estimate off at a fixed range."""

    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def _bounded(self, clean: Tensor) -> Tensor:
        if self.clip_sample and not self.thresholding:
            return clean.clamp(-self.clip_sample_range, self.clip_sample_range)
        return super()._bounded(clean)


def variance_preserving(alpha_bar: float) -> Level:
    """The level with `alpha_bar` of its variance from the signal and the rest from noise."""
    return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def clean(kind: EveryPrediction, sample: Tensor, prediction: Tensor, level: Level) -> Tensor:
    """x0 from what the model predicts, where sample = alpha x0 + sigma epsilon.

    v is that of Salimans and Ho 2022, appendix D, at the sample scaled to unit variance (r = 1 where it is already).
    """
    alpha, sigma = level
    match kind:
        case "epsilon":
            return (sample - sigma * prediction) / alpha
        case "sample" | "original_sample":
            return prediction
        case "v_prediction":
            r = (alpha**2 + sigma**2) ** 0.5
            return (alpha / r**2) * sample - (sigma / r) * prediction
        case "flow_prediction":  # Lipman et al. 2023: the model predicts noise - clean, and alpha + sigma = 1
            return sample - sigma * prediction


def noise_in(kind: EveryPrediction, sample: Tensor, prediction: Tensor, level: Level) -> Tensor:
    """epsilon from what the model predicts; the other half of `clean`."""
    alpha, sigma = level
    match kind:
        case "epsilon":
            return prediction
        case "sample" | "original_sample":
            return (sample - alpha * prediction) / sigma
        case "v_prediction":
            r = (alpha**2 + sigma**2) ** 0.5
            return (sigma / r**2) * sample + (alpha / r) * prediction
        case "flow_prediction":
            return sample + alpha * prediction


def dynamic_threshold(clean: Tensor, ratio: float, max_value: float) -> Tensor:
    """Saharia et al. 2022 (Imagen), section 2.3: clip each row at its `ratio` quantile s of |x0|, and divide by s.

    clean: (batch, ...). s lies in 1..max_value. Sorting gives the quantile without torch.quantile's limit of 16
    million values and without its reading back to the host.
    """
    size = clean[0].numel()
    ordered = clean.abs().reshape(-1, size).sort(dim=1).values
    place = ratio * (size - 1)
    s = ordered[:, floor(place)].lerp(ordered[:, ceil(place)], place - floor(place))
    s = s.clamp(min=1).clamp(max=max_value).reshape(-1, *[1] * (clean.ndim - 1))
    return clean.clamp(-s, s) / s
