"""Changes with which a call fits into memory, each with its figures and the line to write."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...graph.block import Block
from ...graph.edits import replaced
from ...graph.errors import ConfigError, LoadError
from ...graph.named import Named
from ...registry import UnknownName
from ..memory.budget import Budget
from ..memory.policy import CPU
from ..memory.sizes import show_size
from .memory import Needs
from .plan import Proposal, Stage
from .walked import Walked

Settings = Mapping[str, Any]  # fields of blocks

_QUANTIZATIONS = ("quanto_int8", "nf4")
_STORAGE = "float8_e4m3fn"
_WAYS: tuple[tuple[Settings, ...], ...] = (
    ({"slicing": True}, {"tile": 512}),
    ({"tile": 512, "slicing": True},),
    ({"tile": 256, "slicing": True},),
)
"""Settings of blocks that decode and encode, in groups: a group is tried where none before it makes the call fit."""


def proposals(walked: Walked) -> Iterator[Proposal]:
    """Changes with which all stages of a walked call fit, the smallest change first.

    These are a budget, other ways to keep the largest component of a stage that is too large with that budget, and
    decoding picture by picture or in tiles.
    """
    stages = walked.stages(walked.needs)
    if (budget := _budget_for(stages)) is not None:
        with_budget = walked.stages(walked.needs, budget)
        yield from _fitting("components leave the device after use", with_budget, _code(budget))
    else:
        with_budget = stages
    keys = {walked.needs[key].entry.name: (name, key) for name, key in walked.names.items()}
    largest: dict[str, None] = {}
    for stage in with_budget:
        if stage.excess:
            largest[max(stage.components, key=lambda name: walked.needs[keys[name][1]].on_device)] = None
    for name in largest:
        yield from _of_component(walked, *keys[name], budget)
    for stage in stages:
        if stage.excess and stage.memory and stage.activations > stage.weights.get(stage.device, 0) // 8:
            yield from _of_blocks(walked, stage)


def _of_component(walked: Walked, name: str, key: str, budget: Budget | None) -> Iterator[Proposal]:
    """Other ways to keep a component."""
    own = walked.needs[key]

    def stages(changed: Needs) -> tuple[Stage, ...]:
        return walked.stages({**walked.needs, key: changed}, budget)

    offload = f"pipe.bindings[{name!r}].manager.offload({own.entry.name!r}, "
    if not own.entry.device.startswith(CPU) and not own.offload.streams:
        text = f"{name} stays on the CPU, and its blocks are copied to {own.entry.device} "
        for more, prefetch in (("ahead, while it computes", True), ("one after another (slower)", False)):
            changed = own.changed(offload=replace(own.offload, by="blocks", prefetch=prefetch))
            code = f"{offload}'blocks'{', prefetch=True' if prefetch else ''})"
            yield from _fitting(text + more, stages(changed), _both(budget, code))
    if own.offload.storage is None and not own.handle.is_quantized:
        changed = own.changed(offload=replace(own.offload, storage=_STORAGE))
        size = f"{show_size(changed.estimate.bytes)} in place of {show_size(own.estimate.bytes)}"
        text = f"{name} stored in {_STORAGE}, {size}"
        yield from _fitting(text, stages(changed), _both(budget, f"{offload}storage={_STORAGE!r})"))
    for method in _QUANTIZATIONS if own.handle.spec.quantization is None else ():
        try:
            changed = own.changed(quantization=method)
        except (ConfigError, LoadError, UnknownName):
            continue
        text = f"{name} in {method}, {show_size(changed.estimate.bytes)} in place of {show_size(own.estimate.bytes)}"
        more = f"quantization={{{name!r}: {method!r}}}"
        yield from _fitting(text, stages(changed), _code(budget, more) or f"sf.load(…, {more})")


def _of_blocks(walked: Walked, stage: Stage) -> Iterator[Proposal]:
    """Slicing and tiles for the nodes of a stage that can work so and do not."""
    for path in stage.nodes:
        block = walked.call.graph[path]
        for ways in _WAYS:
            made = [proposal for way in ways for proposal in _of_settings(walked, path, block, way)]
            yield from made
            if made:
                break


def _of_settings(walked: Walked, path: str, block: Block, settings: Settings) -> Iterator[Proposal]:
    """The call with these settings of a block, which it has not yet."""
    config = _plain(block).config()
    if any(name not in config or config[name] for name in settings):
        return
    again = Walked.of(replace(walked.call, graph=replaced(walked.call.graph, path, _with(block, settings), ())))
    budget = _budget_for(again.stages(again.needs))
    what = [f"in tiles of {settings['tile']} pixels"] if "tile" in settings else []
    what += ["picture by picture"] if "slicing" in settings else []
    code = f"pipe.replace({path!r}, {_text(_with(block, settings), settings)})"
    stages = again.stages(again.needs, budget)
    yield from _fitting(f"{path} {', '.join(what)}", stages, _both(budget, code))


def _plain(block: Block) -> Block:
    while isinstance(block, Named):
        block = block.block
    return block


def _with(block: Block, settings: Settings) -> Block:
    if isinstance(block, Named):
        return replace(block, block=_with(block.block, settings))
    return block.with_(**settings)


def _text(block: Block, settings: Settings) -> str:
    """The expression that makes a block with these settings, with its names outside."""
    if isinstance(block, Named):
        names = ", ".join(f"{old}={new!r}" for old, new in block.names)
        return f"sf.named({_text(block.block, settings)}, {names})"
    return f"{type(block).__name__}({', '.join(f'{name}={value!r}' for name, value in settings.items())})"


def _fitting(change: str, stages: tuple[Stage, ...], code: str) -> Iterator[Proposal]:
    """The proposal, if all stages fit with it."""
    if not any(stage.excess for stage in stages):
        yield Proposal(change, max(stage.peak for stage in stages), code)


def _budget_for(stages: tuple[Stage, ...]) -> Budget | None:
    """The budget with which weights leave enough memory for the activations; None if the managers have budgets."""
    if any(stage.limits for stage in stages):
        return None
    limits: dict[str, int] = {}
    for stage in stages:
        for device, memory in stage.memory.items():
            activations = stage.activations if device == stage.device else 0
            limits[device] = min(limits.get(device, memory), max(0, memory - activations))
    return Budget(limits) if limits else None


def _both(budget: Budget | None, code: str) -> str:
    return f"{_code(budget)}; {code}" if budget is not None else code


def _code(budget: Budget | None, more: str = "") -> str:
    if budget is None:
        return ""
    limits = {device: show_size(_rounded_down(limit)) for device, limit in budget.limits.items()}
    return f"sf.load(…, manager=sf.ComponentsManager(budget={limits}){f', {more}' if more else ''})"


def _rounded_down(size: int) -> int:
    """A size that is shown with one digit behind the point, and is no larger than this one."""
    unit = next((unit for unit in (10**9, 10**6, 10**3) if size >= unit), 10)
    return size // (unit // 10) * (unit // 10)
