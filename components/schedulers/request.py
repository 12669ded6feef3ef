"""The arguments of one `Scheduler.steps` call, as one value that is checked before anything is planned."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

import numpy as np

from ...graph.errors import ConfigError
from ...graph.limits import AboveLimit, check_limit
from ...graph.validate import value_text
from .arrays import Float32s, Floats

Accepts = Literal["timesteps", "sigmas", "either", "both", "neither"]
"""The arguments that a scheduler accepts, of `timesteps` and `sigmas`: one kind, one of the two, both at once, none."""


@dataclass(frozen=True)
class Request:
    """The arguments of `steps`: `n` whole steps, or the steps at `timesteps` or `sigmas`."""

    scheduler: str
    """The scheduler's class name, for error texts."""
    n: int
    """Whole steps; 1 or more. Ignored with `timesteps` or `sigmas`."""
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    image_tokens: int | None = None
    """Tokens of the packed image, for a shift that depends on its size."""

    def steps(self, most: int) -> int:
        """`n`, at most as many as the model has training timesteps. ConfigError if it is larger."""
        if self.n > most:
            raise ConfigError(f"{self.scheduler} takes 1 to {most} steps, not {self.n}.")
        return self.n

    def falling_timesteps(self, last: int, unit: str = "training timesteps", whole: bool = False) -> Floats:
        """`timesteps` as float64, cut to integers if `whole`. ConfigError unless they fall within `last`..0."""
        values = np.asarray(self.timesteps or (), dtype=np.float64)
        values = np.trunc(values) if whole else values
        if not len(values) or (np.diff(values) >= 0).any() or values[0] > last or values[-1] < 0:
            raise ConfigError(
                f"{self.scheduler} needs falling timesteps between {last} and 0, counted in {unit}. "
                f"Got {listed(values.tolist())}."
            )
        return values

    def noise_levels(self, most: float = inf) -> Float32s:
        """`sigmas` as float32, the end of the run last. ConfigError unless all but the end lie in 0 < sigma <= most."""
        values = np.asarray(self.sigmas or (), dtype=np.float32)
        before = values[:-1]
        if len(values) < 2 or not ((before > 0) & (before <= most)).all() or not np.isfinite(values).all():
            room = "above 0" if most == inf else f"above 0 and at most {most:g}"
            raise ConfigError(
                f"{self.scheduler} needs two or more sigmas {room}; only the last one, where the run ends, may be 0. "
                f"Got {listed(self.sigmas or ())}."
            )
        return values

    def refuse_equal_neighbours(self, sigmas: Floats | Float32s) -> None:
        """Raise ConfigError where two model calls follow each other at one level: multistep solvers divide by 0."""
        equal = sigmas[1:][np.diff(sigmas) == 0]
        if len(equal):
            raise ConfigError(
                f"{self.scheduler} needs a new noise level in each step, got sigma {equal[0]:g} twice. Remove one."
            )


def checked(
    scheduler: str,
    accepts: Accepts,
    n: int,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    image_tokens: int | None,
) -> Request:
    """The request of one call. ConfigError if it passes something that this scheduler does not accept."""
    for key, values, other in (("timesteps", timesteps, "sigmas"), ("sigmas", sigmas, "timesteps")):
        if values is not None and accepts == other:
            example = "" if key == "timesteps" else ", or use a scheduler with sigmas, such as EulerDiscreteScheduler"
            raise ConfigError(f"{scheduler} takes no {key}. Pass {other}{example}.")
        if values is not None and accepts == "neither":
            raise ConfigError(f"{scheduler} takes no {key}: it plans its own. Pass a number of steps.")
    if timesteps is not None and sigmas is not None and accepts == "either":
        raise ConfigError(f"{scheduler} takes timesteps or sigmas, not both. Pass one of them.")
    if timesteps is None and sigmas is None and n < 1:
        raise ConfigError(f"{scheduler} takes 1 step or more, not {n}.")
    times, levels = _numbers(scheduler, "timesteps", timesteps), _numbers(scheduler, "sigmas", sigmas)
    try:
        check_limit("steps", max((len(each) for each in (times, levels) if each is not None), default=n))
    except AboveLimit as error:
        raise ConfigError(f"A run of {scheduler} {error}") from None
    return Request(scheduler, n, times, levels, image_tokens)


def _numbers(scheduler: str, key: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    try:
        return None if values is None else tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{scheduler} needs a list of numbers as {key}, got {value_text(values)}.") from None


def listed(values: Iterable[float]) -> str:
    """Numbers as error texts show them.

    >>> listed([1.0, 0.25, 0])
    '[1, 0.25, 0]'
    """
    return f"[{', '.join(f'{value:g}' if isfinite(value) else str(value) for value in values)}]"
