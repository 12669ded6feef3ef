"""Step caches in the loop: their memory, and the report of what they skipped."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor

from ...components.caches.cache import CachedPass, StepCache
from ...components.taps.change import Change
from ...components.taps.memory import Entry, PassMemory
from ...components.taps.tap import Tap, Taps
from ...components.types import Pass, Predict
from ...graph import Block, Cell, ConfigError, Memory
from ...graph.typing import Port
from ..guiders.layers import RequiredLayers

Kept = Mapping[str, tuple[int, Mapping[str, Entry]]]
"""The memory of a cache: for each pass, the step in which it was there, and its entries."""


class SkippedPass(NamedTuple):
    """What one pass skipped in one step.

    step: its number in the run. skipped: of its `layers` (blocks, or attention layers), so many did not run. error: the
    mean absolute difference from the full prediction, relative to its mean absolute value; None where not estimated.
    ratio: a number that MagCache measures; None for the others.
    """

    step: int
    role: str
    skipped: int
    layers: int
    error: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class Skipped:
    """The report of a step cache: what each pass of each step skipped. unit: the layers that are counted."""

    passes: tuple[SkippedPass, ...] = ()
    unit: str = "blocks"

    @property
    def steps(self) -> tuple[int, ...]:
        """The numbers of the steps in which a pass skipped something."""
        return tuple(dict.fromkeys(p.step for p in self.passes if p.skipped))

    @property
    def layers(self) -> int:
        """How many layers did not run, over all passes and steps."""
        return sum(p.skipped for p in self.passes)

    @property
    def fraction(self) -> float:
        """The fraction of all layers that did not run."""
        return self.layers / max(sum(p.layers for p in self.passes), 1)

    @property
    def error(self) -> float | None:
        """The largest error of a pass; None where none was estimated."""
        return max((p.error for p in self.passes if p.error is not None), default=None)

    @property
    def mag_ratios(self) -> tuple[float, ...]:
        """The ratios that MagCache measured for the positive passes, one for each step: its setting `mag_ratios`."""
        return tuple(p.ratio for p in self.passes if p.ratio is not None and p.role == "positive")

    def __str__(self) -> str:
        steps = len({p.step for p in self.passes})
        error = "" if self.error is None else f", error up to {self.error:.2g}"
        return (
            f"skipped {self.layers} of {sum(p.layers for p in self.passes)} {self.unit} in {len(self.steps)} of "
            f"{steps} steps{error}"
        )


SkippedOfTurn = Annotated[Cell, Port("skipped_of_turn")]
"""What the passes of this turn skipped: written while the denoiser is called."""


class Cached(NamedTuple):
    """The denoiser as a function that skips layers, and the memory of the cache."""

    predict: Predict
    skipped_of_turn: SkippedOfTurn
    kept: Memory[Kept]


class CacheSteps(Block):
    """Use what the denoiser computed in the steps before. Put it before the guider; `pipe.cached` does so.

    cache: the method and its settings, such as `sf.caches.FirstBlockCacheConfig(0.1)`. estimate_error: also compute
    each full prediction, and report how far the cached one is from it. The run is then slower than without a cache, and
    its result the same.

    Raises:
        ConfigError: a change that is no step cache; a denoiser to which the method does not apply, when the graph is
            made.
    """

    cache: Change
    estimate_error: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.cache, StepCache):
            raise ConfigError(
                f"CacheSteps needs a step cache, got {type(self.cache).__name__}. Changes that remember nothing are "
                "put in by ApplyTap."
            )
        vars(self)["tap"] = RequiredLayers((Tap(self.cache),))

    def __call__(self, predict: Predict, kept: Memory[Kept] = {}) -> Cached:  # noqa: B006  nothing changes it
        cache = cast("StepCache", self.cache)
        report, now = Cell(()), Cell(kept if cache.is_neutral else {})
        if cache.is_neutral:
            return Cached(predict, report, cast("Any", now))
        calls = 0

        def cached(passes: Sequence[Pass]) -> Sequence[Tensor]:
            nonlocal calls
            keys, calls = list(_keys(passes, calls)), calls + 1
            seen = [
                CachedPass(p.role, p.latents, p.step, PassMemory(cache, _entries(kept.get(key), p)))
                for key, p in zip(keys, passes, strict=True)
            ]
            for one in seen:
                one.memory.decision = cache.plan(one, seen)
            tap = Tap(cache)
            with_memory = [
                replace(p, taps=Taps((*p.taps.taps, tap)), memories=(*p.memories, one.memory))
                for p, one in zip(passes, seen, strict=True)
            ]
            made = cache.predict(seen, lambda indices: predict([with_memory[i] for i in indices]))
            now.value = {
                **now.value,
                **{key: (p.step.index, one.memory.after) for key, p, one in zip(keys, passes, seen, strict=True)},
            }
            errors = _errors(made, predict(passes)) if self.estimate_error else [None] * len(passes)
            report.value += tuple(map(_skipped, seen, errors))
            return made

        return Cached(cached, report, cast("Any", now))


class Reported(NamedTuple):
    """The report of a step cache, up to this turn."""

    skipped: Annotated[Skipped, Port("skipped")]


class ReportSkipped(Block):
    """Collect what a step cache skipped. Put it after the guider; `pipe.cached` does so."""

    unit: str = "blocks"

    def __call__(
        self, skipped_of_turn: SkippedOfTurn, skipped: Annotated[Skipped, Port("skipped")] = Skipped()
    ) -> Reported:
        return Reported(Skipped((*skipped.passes, *skipped_of_turn.value), self.unit))


def _keys(passes: Sequence[Pass], call: int) -> Iterator[str]:
    """A key for each pass of a call: its place among those of its role.

    With another number of passes of a role the keys are others, so that no pass gets the entries of another.
    """
    counts, place = Counter(p.role for p in passes), Counter[str]()
    for p in passes:
        yield f"{call} {p.role} {place[p.role]} of {counts[p.role]}"
        place[p.role] += 1


def _entries(kept: tuple[int, Mapping[str, Entry]] | None, p: Pass) -> Mapping[str, Entry]:
    """What a pass kept in the step before; nothing where it was not there."""
    return kept[1] if kept is not None and kept[0] == p.step.index - 1 else {}


def _skipped(p: CachedPass, error: float | None) -> SkippedPass:
    memory, number = p.memory, p.step.index - p.step.schedule.run[0]
    return SkippedPass(number, p.role, memory.skipped, memory.layers, error, memory.ratio)


def _errors(made: Sequence[Tensor], full: Sequence[Tensor]) -> list[float]:
    moved = [(a - b).abs().mean() / b.abs().mean() for a, b in zip(made, full, strict=True)]
    return torch.stack(moved).tolist()
