"""How much noise a model was trained with at each timestep, and which timesteps a run visits."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
AnyBetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exp"]
Spacing = Literal["linspace", "leading", "trailing"]
Float32s = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]  # Any: float32 or float64, numpy's own way to say it


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


def spaced(spacing: Spacing, n: int, count: int, offset: int = 0) -> Floats:
    """`n` of `count` training timesteps, falling, not yet rounded for "linspace": Lin et al. 2023, table 2.

    >>> spaced("leading", 4, 1000, offset=1).tolist()
    [751.0, 501.0, 251.0, 1.0]
    >>> spaced("trailing", 4, 1000).tolist()
    [999.0, 749.0, 499.0, 249.0]
    """
    match spacing:
        case "linspace":
            return np.linspace(0, count - 1, n)[::-1]
        case "leading":  # the offset holds for this one alone, as in every published scheduler
            return np.arange(n, dtype=np.float64)[::-1] * (count // n) + offset
        case "trailing":
            # arange, for its rounding of halves is the published one; [:n], for it can give one too many (n = 61).
            return np.round(np.arange(count, 0, -count / n)[:n]) - 1


def spaced_with_end(spacing: Spacing, n: int, count: int, last: int, offset: int = 0) -> Floats:
    """`n` whole timesteps of `last`, falling, so spaced that the end of the run would be one more (Lu et al. 2022).

    "trailing" keeps the stride of all `count` timesteps, so it gives fewer than n where `last` is lower.

    >>> spaced_with_end("linspace", 4, 1000, 1000).tolist()
    [999.0, 749.0, 500.0, 250.0]
    """
    match spacing:
        case "linspace":
            return np.linspace(0, last - 1, n + 1).round()[:0:-1]
        case "leading":
            return np.arange(n, 0, -1, dtype=np.float64) * (last // (n + 1)) + offset
        case "trailing":
            return np.round(np.arange(last, 0, -count / n)[:n]) - 1
