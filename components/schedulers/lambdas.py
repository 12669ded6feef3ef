"""Exponential integrators: solvers that are exact where the model's answer does not change (Lu et al. 2022).

In lambda = log(alpha / sigma) the probability flow is x' = linear + model, and its linear part has a closed form. What
is left is an integral of the model's answer against an exponential, which a polynomial stands in for:

    next = keep * sample - scale * (phi1(h) D0 + phi2(h) D1 + phi3(h) D2 + ...) + std * noise

D0 is the answer, D1 and D2 its differences in units of the step. The four kinds differ in those four numbers only.
"""

from collections.abc import Sequence
from math import exp, expm1
from typing import Literal, NamedTuple

from torch import Tensor

from .schedule import Level

Algorithm = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]


class Transfer(NamedTuple):
    """How a sample moves from one level to another."""

    keep: float
    """What is kept of the sample."""
    scale: float
    """What the integral is multiplied by."""
    h: float
    """The exponent of the integral: the step in lambda, negative where the model's answer is the clean sample."""
    std: float = 0.0
    """What unit noise is multiplied by."""


def transfer(kind: Algorithm, start: Level, end: Level) -> Transfer:
    """Lu et al. 2022: dpmsolver (equation 3.4) takes noise; DPM-Solver++ (equation 9) takes the clean sample.

    The sde kinds are those of DPM-Solver++, section 6 (equations 16 and 18).
    """
    h = end.log_snr - start.log_snr
    match kind:
        case "dpmsolver":
            return Transfer(end.alpha / start.alpha, end.sigma, h)
        case "dpmsolver++":
            return Transfer(end.sigma / start.sigma, end.alpha, -h)
        case "sde-dpmsolver":
            return Transfer(end.alpha / start.alpha, 2 * end.sigma, h, end.sigma * max(expm1(2 * h), 0) ** 0.5)
        case "sde-dpmsolver++":
            std = end.sigma * max(-expm1(-2 * h), 0) ** 0.5
            return Transfer(end.sigma / start.sigma * exp(-h), end.alpha, -2 * h, std)


def phis(h: float, count: int) -> list[float]:
    """phi1 = e^h - 1, and phi_(k+1) = phi_k / h - 1 / k!: Lu et al. 2022, appendix B.2, times h.

    >>> [round(phi, 4) for phi in phis(0.5, 3)]
    [0.6487, 0.2974, 0.0949]
    """
    values, factorial = [expm1(h)], 1
    for k in range(1, count):
        factorial *= k
        values.append(values[-1] / h - 1 / factorial)
    return values


def move(sample: Tensor, by: Transfer, weighted: Sequence[tuple[float, Tensor]], noise: Tensor | None = None) -> Tensor:
    """The sample at the next level. weighted: what stands in for the integral, as weights and tensors."""
    out = by.keep * sample
    for weight, tensor in weighted:
        out = out - (by.scale * weight) * tensor
    return out if noise is None else out + by.std * noise
