"""Exponential integrators: solvers that are exact where the model's output does not change (Lu et al. 2022).

In lambda = log(alpha / sigma) the probability flow is x' = linear + model, and its linear part has a closed form. What
is left is an integral of the model's output against an exponential, where a polynomial replaces the output:

    next = keep * sample - scale * (phi1(h) D0 + phi2(h) D1 + phi3(h) D2 + ...) + std * noise

D0 is the output, D1 and D2 its differences in units of the step. The four algorithms differ in keep, scale, h and std.
"""

from collections.abc import Sequence
from math import exp, expm1, inf
from typing import Literal, NamedTuple

from torch import Tensor

from .history import History
from .schedule import Level, Step

Algorithm = Literal["dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"]


class Transfer(NamedTuple):
    """The four numbers that move a sample from one level to another."""

    keep: float
    """The factor of the sample."""
    scale: float
    """The factor of the integral."""
    h: float
    """The exponent of the integral: the step in lambda, negative where the model's output is the clean sample."""
    std: float = 0.0
    """The factor of unit noise."""


def transfer(algorithm: Algorithm, start: Level, end: Level) -> Transfer:
    """Lu et al. 2022: dpmsolver (equation 3.4) integrates noise; DPM-Solver++ (equation 9) the clean sample.

    The sde kinds are those of DPM-Solver++, section 6 (equations 16 and 18).
    """
    h = end.log_snr - start.log_snr
    match algorithm:
        case "dpmsolver":
            return Transfer(end.alpha / start.alpha, end.sigma, h)
        case "dpmsolver++":
            return Transfer(end.sigma / start.sigma, end.alpha, -h)
        case "sde-dpmsolver":
            return Transfer(end.alpha / start.alpha, 2 * end.sigma, h, end.sigma * max(expm1(2 * h), 0) ** 0.5)
        case "sde-dpmsolver++":
            std = end.sigma * max(-expm1(-2 * h), 0) ** 0.5
            return Transfer(end.sigma / start.sigma * exp(-h), end.alpha, -2 * h, std)


def unbounded(step: Step, integrates_noise: bool) -> bool:
    """Whether e^h is infinite in this step: noise is integrated from no signal or to no noise, or x0 to no signal."""
    return step.target.log_snr - step.level.log_snr == (inf if integrates_noise else -inf)


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
    """The sample at the next level. weighted: the terms of the integral, as weights and tensors."""
    out = by.keep * sample
    for weight, tensor in weighted:
        out = out - (by.scale * weight) * tensor
    return out if noise is None else out + by.std * noise


def differences(outputs: Sequence[Tensor], lambdas: Sequence[float], h: float) -> list[Tensor]:
    """D0, D1, D2 from the newest output backwards: Lu et al. 2022 (DPM-Solver++), algorithm 2 and appendix B.

    outputs and lambdas: newest first, of as many steps as the order. h: the coming step in lambda.
    """
    d0 = outputs[0]
    if len(outputs) == 1:
        return [d0]
    r0 = (lambdas[0] - lambdas[1]) / h
    newer = (d0 - outputs[1]) / r0
    if len(outputs) == 2:
        return [d0, newer]
    r1 = (lambdas[1] - lambdas[2]) / h
    bend = (newer - (outputs[1] - outputs[2]) / r1) / (r0 + r1)
    return [d0, newer + r0 * bend, bend]


def lambdas_before(step: Step, count: int) -> list[float]:
    """lambda at this step and at the steps before it, `count` in all, newest first."""
    return [step.schedule.levels[step.index - k].log_snr for k in range(count)]


def usable_order(order: int, step: Step, history: History, lower_at_end: bool) -> int:
    """The order of this step: as many outputs as there are and, with `lower_at_end`, as there are steps left."""
    left = len(step.schedule.timesteps) - step.index
    return min(order, len(history) + 1, left if lower_at_end else order)


def multistep_order(
    order: int, step: Step, history: History, lower_order_final: bool, euler_at_final: bool = False
) -> int:
    """As `usable_order`, lower at the end of a run of fewer than 15 steps, and 1 where it ends without noise."""
    if step.last and (euler_at_final or step.target.sigma == 0):
        return 1
    return usable_order(order, step, history, lower_order_final and len(step.schedule.timesteps) < 15)


def multistep(
    sample: Tensor,
    outputs: History,
    step: Step,
    algorithm: Algorithm,
    order: int,
    midpoint: bool,
    noise: Tensor | None = None,
) -> Tensor:
    """One step of DPM-Solver or DPM-Solver++, through the last `order` outputs: Lu et al. 2022b, algorithm 2.

    sample: float32. outputs: the noise or clean samples that are integrated, oldest first, this step's last. midpoint:
    the second order takes phi1 / 2 for phi2, as published. A step of no length leaves the sample as it is.
    """
    by = transfer(algorithm, step.level, step.target)
    if not by.h:
        return sample
    h = step.target.log_snr - step.level.log_snr
    terms = differences(outputs[::-1][:order], lambdas_before(step, order), h)
    weights = phis(by.h, order)
    if order == 2 and midpoint:
        weights[1] = weights[0] / 2
    return move(sample, by, list(zip(weights, terms, strict=True)), noise)
