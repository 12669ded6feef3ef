"""The curves of noise levels that ComfyUI, A1111 and k-diffusion have by name, over the whole range of training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .arrays import Floats
from .curves import beta_quantile, curve
from .flow_shift import shifted
from .keys import SigmaCurve
from .spacing import spaced
from .training_noise import TrainingNoise

_ALIGNED: Mapping[str, tuple[float, ...]] = {
    "align_your_steps": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
        0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "align_your_steps_xl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
        0.2332364134, 0.1114188177, 0.0291671582,
    ),
}  # fmt: skip
"""The published levels, over the range of Stable Diffusion's training."""


@dataclass(frozen=True)
class TrainingRange:
    """The noise levels of training, and times between them."""

    levels: Floats
    """The level at each training timestep, rising."""
    at: Callable[[Floats], Floats]
    """Times -> levels."""
    noisiest: float
    cleanest: float
    """The times of the last and the first level."""

    @classmethod
    def of_diffusion(cls, training: TrainingNoise) -> "TrainingRange":
        """Noise to signal. Between timesteps it is linear in its logarithm, as in k-diffusion."""
        levels = training.sigmas.astype(np.float64)
        places = np.arange(len(levels))
        return cls(levels, lambda times: np.exp(np.interp(times, places, np.log(levels))), len(levels) - 1, 0.0)

    @classmethod
    def of_flow(cls, count: int, shift: float) -> "TrainingRange":
        """Shares of noise, shifted. The time of the first level is that level, so it is shifted twice, as published."""
        levels = shifted(np.arange(1, count + 1) / count, shift)
        return cls(levels, lambda times: shifted(times / count, shift), count, float(levels[0]) * count)


def customary_levels(kind: SigmaCurve, n: int, training: TrainingRange) -> Floats:
    """`n` levels, falling, of at most as many as there are training timesteps; the end of the run is one more.

    karras, exponential, kl_optimal: from the most to the least noise, as `curve` does, or even in the arctangent.
    normal, sgm_uniform: at even times, with and without the cleanest one. simple, ddim_uniform: at every (count / n)-th
    timestep, from the noisiest or from the second cleanest. beta: at quantiles of time (Lee et al. 2024), which needs
    scipy. linear_quadratic: the first half of the steps in a line down to 0.975 of the most noise, then in a parabola.
    turbo: at the timesteps count / n, 2 count / n …, less one, as SD-Turbo was distilled. align_your_steps and
    align_your_steps_xl: the ten steps that Sabour et al. 2024 found for Stable Diffusion 1.5 and for SDXL, in between
    by their logarithm, and stretched to another range of training.
    """
    levels, count = training.levels, len(training.levels)
    most, least = float(levels[-1]), float(levels[0])
    match kind:
        case "karras" | "exponential":
            return curve(kind, n, most, least)
        case "kl_optimal":
            return np.tan(np.linspace(np.arctan(most), np.arctan(least), n))
        case "normal":
            return training.at(np.linspace(training.noisiest, training.cleanest, n))
        case "sgm_uniform":
            return training.at(np.linspace(training.noisiest, training.cleanest, n + 1)[:-1])
        case "simple":
            return levels[count - 1 - (np.arange(n) * (count / n)).astype(np.int64)]
        case "ddim_uniform":
            return levels[spaced("leading", n, count, offset=int(n < count)).astype(np.int64)]
        case "beta":
            quantiles = beta_quantile(1 - np.linspace(0, 1, n, endpoint=False), 0.6, 0.6)
            return levels[_distinct(np.rint(quantiles * (count - 1)).astype(np.int64))]
        case "linear_quadratic":
            return most * (1 - _linear_quadratic(n))
        case "turbo":
            return levels[np.maximum(np.rint(np.arange(n, 0, -1) * (count / n) - 1), 0).astype(np.int64)]
        case "align_your_steps" | "align_your_steps_xl":
            return _stretched(_ALIGNED[kind], n, most, least)


def _stretched(table: Sequence[float], n: int, most: float, least: float) -> Floats:
    """The first `n` of n + 1 levels along a table, even in its places and in the logarithm of its levels."""
    logs = np.interp(np.linspace(0, 1, n + 1)[:-1], np.linspace(0, 1, len(table)), np.log(table))
    shares = (logs - np.log(table[-1])) / (np.log(table[0]) - np.log(table[-1]))
    return np.exp(np.log(least) + shares * (np.log(most) - np.log(least)))


def _distinct(timesteps: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The nearest whole timesteps that fall, all at 0 or above."""
    places = np.arange(len(timesteps))
    falling = np.minimum.accumulate(timesteps + places) - places
    return np.maximum(falling, places[::-1])


def _linear_quadratic(n: int, share: float = 0.025) -> Floats:
    """The fraction of noise removed before each step: `share` after n // 2 steps, 1 after n, without a bend."""
    if n == 1:
        return np.zeros(1)
    places, half = np.arange(n, dtype=np.float64), n // 2
    after = np.maximum(places - half, 0)
    return share / half * places + (1 - share * n / half) / (n - half) ** 2 * after**2
