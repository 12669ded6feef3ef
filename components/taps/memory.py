"""The memory of a change of layers for one pass: what it kept in the step before, and what it keeps now."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

NO_ENTRIES: Mapping[str, "Entry"] = {}


class Entry(NamedTuple):
    """A part of the memory of one pass. Values of a loop's memory: they can be saved.

    results: tensors that a later step uses in place of computed ones. indicators: tensors that a later step is compared
    with. numbers: of the change itself.
    """

    results: tuple[Tensor, ...] = ()
    indicators: tuple[Tensor, ...] = ()
    numbers: tuple[float, ...] = ()


class Decision(NamedTuple):
    """Which parts of a forward a pass skips. Passes with equal ones share it. numbers: those of the next entry."""

    skips: tuple[str, ...] = ()
    numbers: tuple[float, ...] = ()


@dataclass(eq=False)
class PassMemory:
    """The memory of one change of layers for one pass in one step. A pass is not shared, so threads do not meet here.

    owner: the change. before: from the step before; empty where the pass was not there. after: for the next step.
    decision: None until it is made. indicator: of this step, where the decision needed one. skipped, layers: how many
    layers were skipped, and how many there are. ratio: a measured number for reports.
    """

    owner: Any  # a change, which holds no reference to this module's types
    before: Mapping[str, Entry] = field(default_factory=dict[str, Entry])
    after: dict[str, Entry] = field(default_factory=dict[str, Entry])
    decision: Decision | None = None
    indicator: Tensor | None = None
    skipped: int = 0
    layers: int = 0
    ratio: float | None = None

    @property
    def decided(self) -> Decision:
        """The decision. Until it is made, nothing is skipped."""
        return self.decision or Decision()


class UndecidedPasses(Exception):
    """The passes of a forward have decided unlike. The denoiser runs them again, those that decided alike together."""
