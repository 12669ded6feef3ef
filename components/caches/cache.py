"""The base of step caches: changes of layers that use what a pass computed in the steps before."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ...graph.errors import ConfigError
from ..schedulers.schedule import Step
from ..taps.change import Change
from ..taps.memory import Decision, Entry, PassMemory


class CachedPass(NamedTuple):
    """A pass as a step cache sees it before the forward. latents: not scaled, rows first."""

    role: str
    latents: Tensor
    step: Step
    memory: PassMemory


Ask = Callable[[Sequence[int]], Sequence[Tensor]]
"""The denoiser as a function of the numbers of passes."""


class StepCache(Change, abstract=True):
    """A step cache: a value with the settings of a published method. `pipe.cached(cache)` makes a graph that uses it.

    All that it remembers is memory of the loop, by pass: a pass has the entries of its own role and rows. A pass that
    was not there in the step before begins without entries.
    """

    per_pass: ClassVar[bool] = True
    unit: ClassVar[str] = "blocks"
    """The layers that reports count."""

    @property
    def is_neutral(self) -> bool:
        """Whether these settings skip nothing in any run. The run is then the plain one."""
        return False

    def plan(self, p: CachedPass, others: Sequence[CachedPass]) -> Decision | None:
        """Decide before the forward which parts a pass skips; None where the forward decides.

        others: all passes of this call, in order.
        """
        return None

    def predict(self, passes: Sequence[CachedPass], ask: Ask) -> Sequence[Tensor]:
        """The predictions for passes that have decided. A cache may ask for fewer."""
        return ask(range(len(passes)))


def step_number(step: Step) -> tuple[int, int]:
    """The number of a model call in its run, from 0, and how many calls the run has."""
    first, stop = step.schedule.run
    return step.index - first, stop - first


def at_least(cache: StepCache, **lowest: float) -> None:
    """Raise ConfigError for settings below these numbers."""
    for name, low in lowest.items():
        value: Any = getattr(cache, name)
        if value is not None and not value >= low:
            raise ConfigError(f"{type(cache).__name__}.{name} needs a number from {low} on, got {value}.")


def entry_of(memory: PassMemory, part: str, rows: int) -> Entry | None:
    """What a pass kept of a part in the step before; None where it kept nothing, or had another number of rows."""
    entry = memory.before.get(part)
    if entry is None or any(len(t) != rows for t in (*entry.results, *entry.indicators)):
        return None
    return entry


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """The mean absolute difference, relative to the mean absolute value of `old`, for each row: (rows,)."""
    difference = (new.float() - old.float()).abs().flatten(1).mean(1)
    return difference / old.float().abs().flatten(1).mean(1)
