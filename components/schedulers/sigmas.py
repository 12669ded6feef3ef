"""Noise levels in the terms of Karras et al. 2022: sigma is noise to signal, and falls from sigma_max to sigma_min."""

from typing import Literal

import numpy as np
import torch

from ...graph.errors import ConfigError
from .betas import Float32s, Floats

Curve = Literal["karras", "exponential", "beta"]


def from_alphas(alphas_cumprod: Float32s) -> Float32s:
    """sigma = sqrt((1 - a) / a) at each training timestep, rising; 1 - a is the share of noise variance.

    Where no signal is left sigma would be infinite. The published stand-in is a = 2**-24, that is sigma = 4096.
    """
    a = torch.tensor(np.where(alphas_cumprod == 0, np.float32(2**-24), alphas_cumprod), device="cpu")
    return (
        ((1 - a) / a).sqrt().numpy()
    )  # by torch, for its roots are the published ones: numpy's differ in the last bit


def to_timesteps(sigmas: Floats, training: Float32s) -> Floats:
    """Where `sigmas` lie among the training sigmas (rising), in timesteps, linear in log sigma; clamped at the ends."""
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(training), np.arange(len(training)))


def curve(kind: Curve, n: int, sigma_max: float, sigma_min: float) -> Floats:
    """`n` levels from sigma_max down to sigma_min.

    karras: Karras et al. 2022, equation 5, rho = 7. exponential: even steps in log sigma.
    beta: Lee et al. 2024 (Beta Sampling is All You Need), alpha = beta = 0.6, which puts more levels at both ends.

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
            return sigma_min + _beta_quantile(1 - np.linspace(0, 1, n), 0.6, 0.6) * (sigma_max - sigma_min)


def _beta_quantile(p: Floats, alpha: float, beta: float) -> Floats:
    """The inverse of the beta distribution's cumulative function; torch has none."""
    try:
        from scipy.special import betaincinv  # pyright: ignore[reportMissingImports]  # optional, not in `dev`
    except ImportError as error:
        raise ConfigError(
            "use_beta_sigmas needs scipy, which is not installed.  pip install scipy, or choose use_karras_sigmas."
        ) from error
    return np.asarray(betaincinv(alpha, beta, p), dtype=np.float64)
