"""Changes with which a call fits into memory, each with its figures and the line to write."""

from collections.abc import Iterator
from dataclasses import replace

from ...graph.block import Block
from ...graph.edits import replaced
from ...graph.errors import ConfigError, LoadError
from ...graph.named import Named
from ...registry import UnknownName
from ..memory.budget import Budget
from ..memory.offload import Offload
from ..memory.policy import CPU
from ..memory.sizes import show_size
from .memory import Needs
from .plan import Proposal, Stage
from .walked import Walked

_QUANTIZATIONS = ("quanto_int8", "nf4")
_TILE = 512  # pixels a side


def proposals(walked: Walked) -> Iterator[Proposal]:
    """Changes with which all stages of a walked call fit, the smallest change first.

    These are a budget, another way to keep the largest component of a stage that is too large with that budget, and
    tiles.
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
            yield from _of_tiles(walked, stage)


def _of_component(walked: Walked, name: str, key: str, budget: Budget | None) -> Iterator[Proposal]:
    """Other ways to keep a component."""
    own = walked.needs[key]

    def stages(changed: Needs) -> tuple[Stage, ...]:
        return walked.stages({**walked.needs, key: changed}, budget)

    if not own.entry.device.startswith(CPU) and not own.offload.streams:
        changed = own.changed(offload=Offload("blocks"))
        text = f"{name} stays on the CPU, and its blocks are copied to {own.entry.device} while it runs (slower)"
        code = f"pipe.bindings[{name!r}].manager.offload({own.entry.name!r}, 'blocks')"
        yield from _fitting(text, stages(changed), _both(budget, code))
    for method in _QUANTIZATIONS if own.handle.spec.quantization is None else ():
        try:
            changed = own.changed(quantization=method)
        except (ConfigError, LoadError, UnknownName):
            continue
        text = f"{name} in {method}, {show_size(changed.estimate.bytes)} in place of {show_size(own.estimate.bytes)}"
        more = f"quantization={{{name!r}: {method!r}}}"
        yield from _fitting(text, stages(changed), _code(budget, more) or f"sf.load(…, {more})")


def _of_tiles(walked: Walked, stage: Stage) -> Iterator[Proposal]:
    """Tiles for a node that can work in tiles and does not."""
    for path in stage.nodes:
        block = walked.call.graph[path]
        if getattr(_plain(block), "tile", 0) is not None:
            continue
        again = Walked.of(replace(walked.call, graph=replaced(walked.call.graph, path, _tiled(block), ())))
        budget = _budget_for(again.stages(again.needs))
        code = f"pipe.replace({path!r}, {type(_plain(block)).__name__}(tile={_TILE}))"
        stages = again.stages(again.needs, budget)
        yield from _fitting(f"{path} in tiles of {_TILE} pixels", stages, _both(budget, code))


def _plain(block: Block) -> Block:
    while isinstance(block, Named):
        block = block.block
    return block


def _tiled(block: Block) -> Block:
    if isinstance(block, Named):
        return replace(block, block=_tiled(block.block))
    return block.with_(tile=_TILE)


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
