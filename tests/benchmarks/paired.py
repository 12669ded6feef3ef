"""Two or more versions of one work, in turns in one process: medians and quartiles of the ratios of their seconds.

A busy machine slows all versions of a round, so a ratio says more than seconds do.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Work = Callable[[], float]
"""Does the work once, and gives its seconds."""


class Spread(NamedTuple):
    """The median of some numbers, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """The spread of at least one number."""
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def in_turns(versions: Mapping[str, Work], rounds: int) -> list[dict[str, float]]:
    """The seconds of each version in each round. One round before is not counted, and the order turns about."""
    names, found = list(versions), list[dict[str, float]]()
    for number in range(rounds + 1):
        gc.collect()
        order = names if number % 2 else list(reversed(names))
        found.append({name: versions[name]() for name in order})
    return found[1:]


def ratio(rounds: Sequence[Mapping[str, float]], name: str, other: str) -> Spread:
    """The seconds of a version, divided by those of another one in the same round."""
    return Spread.of([row[name] / row[other] for row in rounds])


def seconds(rounds: Sequence[Mapping[str, float]], name: str) -> Spread:
    """The seconds of a version."""
    return Spread.of([row[name] for row in rounds])


def timed(work: Callable[[], object]) -> float:
    """The seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
