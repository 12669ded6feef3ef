"""Curves of noise levels, as sigma: noise to signal, from sigma_max down to sigma_min (Karras et al. 2022)."""

from typing import Literal

import numpy as np

from ...graph.errors import ConfigError
from .arrays import Float32s, Floats

Curve = Literal["karras", "exponential", "beta"]


def curve(kind: Curve, n: int, sigma_max: float, sigma_min: float) -> Floats:
    """`n` levels from sigma_max down to sigma_min.

    karras: Karras et al. 2022, equation 5, rho = 7. exponential: even steps in log sigma.
    beta: Lee et al. 2024 (Beta Sampling is All You Need), alpha = beta = 0.6, more levels at both ends. Needs scipy.

    >>> [round(x, 2) for x in curve("karras", 3, 80.0, 0.002).tolist()]
    [80.0, 2.52, 0.0]
    """
    match kind:
        case "karras":
            rho = 7.0
            ramp = np.linspace(0, 1, n)
            return (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
        case "exponential":
            return np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), n))
        case "beta":
            return sigma_min + beta_quantile(1 - np.linspace(0, 1, n), 0.6, 0.6) * (sigma_max - sigma_min)


def even_lambdas(n: int, training: Float32s) -> Floats:
    """`n` levels with even steps in lambda from the most to the least training noise (Lu et al. 2022).

    The ends are float32 logarithms, as published: the first timestep depends on their last bit.
    """
    ends = np.log(training[[-1, 0]])
    return np.exp(np.linspace(float(ends[0]), float(ends[1]), n))


def beta_quantile(p: Floats, alpha: float, beta: float) -> Floats:
    """The inverse of the beta distribution's cumulative function; torch has none."""
    try:
        from scipy.special import betaincinv  # pyright: ignore[reportMissingImports]  # optional, not in `dev`
    except ImportError as error:
        raise ConfigError(
            "A beta curve needs scipy, which is not installed.  pip install scipy, or choose a karras curve."
        ) from error
    return np.asarray(betaincinv(alpha, beta, p), dtype=np.float64)
