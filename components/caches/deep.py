"""Caches of deep layers: a denoiser without them, and what they would have added from the steps before."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, UnfitValue
from ..models.deep_layers import LayeredDenoiser
from ..models.perturbable import PerturbableLayers
from ..models.views import Replacement, combined_class, shallow_copy
from ..taps.change import Chosen
from ..taps.memory import Decision, Entry, PassMemory, UndecidedPasses
from ..taps.place import Current, PassRows, TappedBlock
from .cache import StepCache, entry_of, step_number

DEEP = "deep"
"""The part of a forward that these caches skip, and the name of its entry."""
_DECIDES = "needs the method plan, or the methods indicator, distance and decide."


class DeepLayerCache(StepCache, abstract=True):
    """A cache that replaces the deep layers of a denoiser by a remembered or extrapolated result.

    The result is what the deep layers add to the tokens of a picture. In a U-Net it is their output. A pass decides for
    itself, and the row that changed most decides for a pass of several rows.
    """

    keeps_moving: ClassVar[bool] = True
    """Whether a skipped step is the one that the next step is compared with."""
    adds: ClassVar[bool] = True
    """Whether what the deep layers add is remembered, and not their output. In a U-Net it is their output always."""
    reads_modulation: ClassVar[bool] = False
    """Whether the indicator is the modulated input of the first block."""

    @property
    def depth(self) -> int:
        """The number of shallow layers."""
        return 0

    # ------------------------------------------------------------------------------------------------ a method
    def indicator(self, model: LayeredDenoiser[Any], x: Tensor, stream: Any) -> Tensor:
        """The tensor that decides, rows first. x: the tokens before the shallow layers; stream: after them."""
        raise NotImplementedError(f"{type(self).__name__} {_DECIDES}")

    def distance(self, new: Tensor, old: Tensor) -> Tensor:
        """How far an indicator has moved, for each row."""
        raise NotImplementedError(f"{type(self).__name__} {_DECIDES}")

    def decide(self, number: int, count: int, entry: Entry, distance: float) -> Decision:
        """Decide for the step `number` of `count`, for a pass with an entry. distance: 0 without an indicator."""
        raise NotImplementedError(f"{type(self).__name__} {_DECIDES}")

    def first(self, number: int, count: int) -> Decision:
        """The decision for a pass without an entry: nothing is skipped."""
        return Decision()

    def remembered(self, number: int, entry: Entry | None, value: Tensor, memory: PassMemory) -> Entry:
        """The entry after a step that was computed. value: the result of the deep layers for the rows of the pass."""
        return Entry((value,), (), memory.decided.numbers)

    def predicted(self, number: int, entry: Entry) -> Tensor:
        """The result of the deep layers in a step that is skipped."""
        return entry.results[-1]

    # ------------------------------------------------------------------------------------------------ the mechanism
    def judge(self, passes: Sequence[PassRows], memories: Sequence[PassMemory], found: Tensor) -> None:
        """Decide for all passes of a forward that have not decided, with one read of the device."""
        waiting = [(p, m) for p, m in zip(passes, memories, strict=True) if m.decision is None]
        moved: list[Tensor] = []
        for p, memory in waiting:
            memory.indicator = found[p.rows]
            entry = entry_of(memory, DEEP, p.stop - p.start)
            if entry is not None:
                moved.append(self.distance(memory.indicator, entry.indicators[0]).max())
        distances = iter(torch.stack(moved).tolist() if moved else ())
        for p, memory in waiting:
            entry, (number, count) = entry_of(memory, DEEP, p.stop - p.start), _number(p)
            memory.decision = (
                self.first(number, count) if entry is None else self.decide(number, count, entry, next(distances))
            )

    def select(self, layers: PerturbableLayers, chosen: Chosen, model: str) -> Sequence[str]:
        """Return the path of the model itself.

        Raises:
            ConfigError: a tap with layers, or a model to which the method does not apply.
        """
        name = type(self).__name__
        if chosen != Chosen():
            raise ConfigError(f"{name} skips the deep layers, and no layers can be named. Leave layers out.")
        if layers.shallow is None:
            raise ConfigError(f"{name} needs a denoiser with deep layers, and {model} has none. Leave the cache out.")
        if self.depth > layers.shallow:
            raise ConfigError(f"{name} needs {self.depth} shallow layers, and {model} has at most {layers.shallow}.")
        if self.reads_modulation and not layers.modulated:
            raise ConfigError(f"{name} compares modulated inputs, and {model} has none. Use first_block or deepcache.")
        return ("",)

    def replacements(self, block: TappedBlock) -> Mapping[str, Replacement]:
        """Return the model as one that skips its deep layers."""

        def replaced(model: nn.Module) -> nn.Module:
            if isinstance(model, CachedLayers):
                raise UnfitValue(
                    f"{type(self).__name__} and {type(model.cache).__name__} both skip the deep layers. Use one."
                )
            twin = shallow_copy(model, combined_class(CachedLayers, type(model)))
            deep = len(cast("LayeredDenoiser[Any]", model).deep_blocks(self.depth))
            twin.__dict__.update(cache=self, current=block.current, deep=deep, all=len(block.layers.blocks))
            return twin

        return {"": replaced}


class CachedLayers(LayeredDenoiser[Any]):
    """A denoiser that skips its deep layers where its passes have decided so."""

    cache: DeepLayerCache
    current: Current
    deep: int
    all: int

    def run_layers(self, stream: Any) -> Any:
        """Run all layers, or all but the deep ones."""
        forward, cache = self.current.found, self.cache
        memories = forward.memories_of(cache) if forward is not None else ()
        if forward is None or not memories:
            return super().run_layers(stream)
        passes, before = forward.passes, stream.x
        stream = self.before_deep(stream, cache.depth)
        if any(memory.decision is None for memory in memories):
            cache.judge(passes, memories, cache.indicator(self, before, stream))
        skips = {bool(memory.decided.skips) for memory in memories}
        if len(skips) > 1:
            raise UndecidedPasses
        run = self._without_deep if skips == {True} else self._with_deep
        return self.after_deep(run(stream, passes, memories), cache.depth)

    def _with_deep(self, stream: Any, passes: Sequence[PassRows], memories: Sequence[PassMemory]) -> Any:
        before = stream.x
        stream = self.run_deep(stream, self.cache.depth)
        value = stream.x - before if self._adds else stream.x
        for p, memory in zip(passes, memories, strict=True):
            entry = entry_of(memory, DEEP, p.stop - p.start)
            made = self.cache.remembered(_number(p)[0], entry, value[p.rows], memory)
            memory.after[DEEP] = made._replace(indicators=_indicators(memory))
            memory.layers = self.all
        return stream

    def _without_deep(self, stream: Any, passes: Sequence[PassRows], memories: Sequence[PassMemory]) -> Any:
        values: list[Tensor] = []
        for p, memory in zip(passes, memories, strict=True):
            entry = memory.before[DEEP]
            values.append(self.cache.predicted(_number(p)[0], entry))
            indicators = _indicators(memory) if self.cache.keeps_moving else entry.indicators
            memory.after[DEEP] = entry._replace(indicators=indicators, numbers=memory.decided.numbers)
            memory.skipped, memory.layers = self.deep, self.all
        value = (values[0] if len(values) == 1 else torch.cat(values)).to(stream.x.dtype)
        return stream._replace(x=stream.x + value if self._adds else value)

    @property
    def _adds(self) -> bool:
        return self.cache.adds and self.deep_adds


def _number(p: PassRows) -> tuple[int, int]:
    if p.step is None:
        raise UnfitValue("A step cache needs the step of each pass, got none. Call the model through predict.")
    return step_number(p.step)


def _indicators(memory: PassMemory) -> tuple[Tensor, ...]:
    return () if memory.indicator is None else (memory.indicator,)
