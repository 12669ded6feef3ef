"""The training timesteps that a run visits."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from ...graph.errors import ConfigError
from .arrays import Floats
from .request import Request

Spacing = Literal["linspace", "leading", "trailing"]


def visited(request: Request, count: int, spacing: Callable[[int], Floats], offset: int = 0) -> Floats:
    """The timesteps of a run, falling, not yet rounded: those of the request, or `spacing(n)`.

    count: training timesteps. offset: the `steps_offset` that `spacing` adds, for the error text.
    Raises ConfigError where they do not lie in 0 to count - 1.
    """
    if request.timesteps is not None:
        return request.falling_timesteps(count - 1)
    values = spacing(request.steps(count))
    if values[0] > count - 1 or values[-1] < 0:
        raise ConfigError(
            f"{request.scheduler} was trained at timesteps 0 to {count - 1}, but {request.n} steps with steps_offset "
            f"{offset} go from {values[0]:g} to {values[-1]:g}. Use fewer steps or a smaller offset."
        )
    return values


def rounded(timesteps: Floats) -> tuple[int, ...]:
    """Whole timesteps, as Python ints."""
    return tuple(int(t) for t in timesteps.round())


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
        case "leading":  # only this spacing adds the offset, as in every published scheduler
            return np.arange(n, dtype=np.float64)[::-1] * (count // n) + offset
        case "trailing":
            # arange, because its rounding of halves is the published one; [:n], because it can give one too many (61).
            return np.round(np.arange(count, 0, -count / n)[:n]) - 1


def spaced_with_end(spacing: Spacing, n: int, count: int, last: int, offset: int = 0) -> Floats:
    """`n` whole timesteps of `last`, falling, spaced so that the end of the run would be one more (Lu et al. 2022).

    "trailing" keeps the stride of all `count` timesteps, so it gives fewer than n where `last` is lower. As many steps
    as timesteps visit each of them, and the end of the run is none of them.

    >>> spaced_with_end("linspace", 4, 1000, 1000).tolist()
    [999.0, 749.0, 500.0, 250.0]
    """
    if n == last and spacing != "trailing":
        return np.arange(last, dtype=np.float64)[::-1]
    match spacing:
        case "linspace":
            return np.linspace(0, last - 1, n + 1).round()[:0:-1]
        case "leading":
            return np.arange(n, 0, -1, dtype=np.float64) * (last // (n + 1)) + offset
        case "trailing":
            return np.round(np.arange(last, 0, -count / n)[:n]) - 1
