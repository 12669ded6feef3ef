"""The noise of each timestep at a diffusion model's training."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .arrays import Float32s, Floats
from .keys import AnyBetaSchedule, BetaKeys, ZeroSNRKeys
from .schedule import Level


@dataclass(frozen=True, eq=False)
class TrainingNoise:
    """The noise of training, as a table over the training timesteps."""

    alphas_cumprod: Floats
    """The share of signal variance at each training timestep, falling: Ho et al. 2020, the line before equation 4."""

    @classmethod
    def of(cls, keys: BetaKeys) -> Self:
        """The noise that these config keys describe; tables of equal keys are made once."""
        return cls(
            alphas_cumprod(
                keys.num_train_timesteps,
                keys.beta_start,
                keys.beta_end,
                keys.beta_schedule,
                keys.trained_betas,
                isinstance(keys, ZeroSNRKeys) and keys.rescale_betas_zero_snr,
            )
        )

    def level(self, timestep: int, clean_end: bool = True) -> Level:
        """Signal and noise at a training timestep. Below 0: a clean sample, or the level of timestep 0."""
        if timestep < 0 and clean_end:
            return Level(1.0, 0.0)
        return variance_preserving(float(self.alphas_cumprod[max(timestep, 0)]))

    @property
    def sigmas(self) -> Float32s:
        """Noise to signal, sqrt((1 - a) / a) for the share of signal variance a, rising.

        Where no signal is left it would be infinite. The published stand-in is a = 2**-24, that is sigma = 4096.
        """
        table = np.where(self.alphas_cumprod == 0, np.float32(2**-24), self.alphas_cumprod)
        a = torch.tensor(table, device="cpu")
        return ((1 - a) / a).sqrt().numpy()  # by torch: its roots are the published ones, numpy's differ in a last bit

    def sigmas_at(self, timesteps: Floats) -> Floats:
        """Noise to signal at timesteps, which may lie between those of training."""
        sigmas = self.sigmas
        return np.interp(timesteps, np.arange(len(sigmas)), sigmas)

    def timesteps_at(self, sigmas: Floats) -> Floats:
        """The timesteps of noise levels, linear in log sigma between those of training; clamped at the ends."""
        training = self.sigmas
        return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(training), np.arange(len(training)))


def variance_preserving(alpha_bar: float) -> Level:
    """The level with `alpha_bar` of its variance from the signal and the rest from noise."""
    return Level(alpha_bar**0.5, (1 - alpha_bar) ** 0.5)


def require_signal(scheduler: str, prediction_type: str, start: Level) -> None:
    """Refuse a run that starts without any signal where the solver would divide by it."""
    if start.alpha == 0 and prediction_type == "epsilon":
        raise ConfigError(
            f"{scheduler} cannot start at a timestep without signal with prediction_type='epsilon': the clean sample "
            "cannot be estimated there. Use prediction_type='v_prediction', or set rescale_betas_zero_snr=False."
        )


@lru_cache(maxsize=64)
def alphas_cumprod(
    count: int,
    beta_start: float,
    beta_end: float,
    schedule: AnyBetaSchedule,
    trained_betas: tuple[float, ...] | None = None,
    zero_terminal_snr: bool = False,
) -> Float32s:
    """The share of signal variance left after t + 1 noising steps: Ho et al. 2020, the line before equation 4.

    One float32 for each of the `count` training timesteps, read-only. The product is taken by torch on the CPU, which
    accumulates in double precision; numpy would not, and the last digits would differ from published numbers.
    """
    if trained_betas is not None:
        betas = torch.tensor(trained_betas, dtype=torch.float32, device="cpu")
    else:
        betas = _betas(count, beta_start, beta_end, schedule)
    if zero_terminal_snr:
        betas = rescale_zero_terminal_snr(betas)
    table: Float32s = (1.0 - betas).cumprod(0).numpy()
    table.setflags(write=False)
    return table


def _betas(count: int, start: float, end: float, schedule: AnyBetaSchedule) -> Tensor:
    def line(a: float, b: float) -> Tensor:
        return torch.linspace(a, b, count, dtype=torch.float32, device="cpu")

    match schedule:
        case "linear":  # Ho et al. 2020, section 4
            return line(start, end)
        case "scaled_linear":  # Rombach et al. 2022: linear in the square root
            return line(start**0.5, end**0.5) ** 2
        case "squaredcos_cap_v2":  # Nichol and Dhariwal 2021, equation 17
            return _betas_from(lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2, count)
        case "laplace":
            return _betas_from(_laplace, count)
        case "exp":
            return _betas_from(lambda t: math.exp(-12 * t), count)
        case "sigmoid":  # Xu et al. 2022 (GeoDiff)
            return torch.sigmoid(line(-6, 6)) * (end - start) + start


def _betas_from(alpha_bar: Callable[[float], float], count: int, cap: float = 0.999) -> Tensor:
    """Betas whose running product follows `alpha_bar`, a function of time 0..1."""
    ratios = (alpha_bar((i + 1) / count) / alpha_bar(i / count) for i in range(count))
    return torch.tensor([min(1 - ratio, cap) for ratio in ratios], dtype=torch.float32, device="cpu")


def _laplace(t: float) -> float:
    """Hang et al. 2024, table 1, with location 0 and scale 1/2."""
    snr = math.exp(-0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6))
    return math.sqrt(snr / (1 + snr))


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas that leave no signal at the last timestep: Lin et al. 2023, algorithm 1. betas: (timesteps,)."""
    alphas_bar_sqrt = (1.0 - betas).cumprod(0).sqrt()
    first, last = alphas_bar_sqrt[0], alphas_bar_sqrt[-1]
    shifted = (alphas_bar_sqrt - last) * (first / (first - last))
    alphas_bar = shifted**2
    return 1 - torch.cat([alphas_bar[:1], alphas_bar[1:] / alphas_bar[:-1]])
