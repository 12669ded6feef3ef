"""`pipe.cached`: a graph whose denoisers use what they computed in the steps before."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from ..blocks.denoise.caches import CacheSteps, ReportSkipped
from ..components.caches.cache import StepCache
from ..graph import Block, ConfigError, Graph, InputError, Loop, Problem
from ..graph.edits import edited
from ..graph.paths import blocks_inside
from ..graph.structure import Structure
from ..graph.validate import value_text
from ..registry import step_caches

CACHE, REPORT = "cache", "report_skipped"
"""The names of the nodes."""


def cached(graph: Graph, cache: Any, settings: Mapping[str, Any], estimate_error: bool) -> Graph:
    """Put a step cache before each guider, or take it out with None. See `Graph.cached`."""
    graph = without_cache(graph)
    if cache is None:
        return graph
    cache = _cache(cache, settings)
    guiders = list(_guiders(graph))
    if not guiders:
        raise ConfigError("This graph has no guider that reads predict in a loop, so there are no steps to cache.")
    for path in guiders:
        block = CacheSteps(cache=cache, estimate_error=estimate_error)
        graph = graph.insert(CACHE, block, before=path)
        graph = graph.insert(REPORT, ReportSkipped(unit=cache.unit), after=path, outputs=("skipped",))
    return graph


def _cache(cache: Any, settings: Mapping[str, Any]) -> StepCache:
    if isinstance(cache, StepCache):
        if settings:
            raise ConfigError(
                f"Got a {type(cache).__name__} and also {', '.join(settings)}. Set them in the value: "
                f"{type(cache).__name__}({', '.join(f'{name}=…' for name in settings)})."
            )
        return cache
    if not isinstance(cache, str):
        text = f"needs a step cache, its name, or None. Got {value_text(cache)}."
        raise InputError(Problem("value", "cache", text))
    return step_caches[cache](**settings)


def _guiders(graph: Graph) -> Iterator[str]:
    """The paths of the blocks in loops that read `predict` and make a prediction."""
    for names, block in blocks_inside(graph):
        ports = block.signature
        if "predict" in ports.inputs and "prediction" in ports.outputs:
            yield ".".join(names)


def with_cache_of(other: Graph, graph: Graph) -> Graph:
    """A graph with the step cache of another graph, if that has one."""
    found = next((block for _, block in blocks_inside(other) if isinstance(block, CacheSteps)), None)
    return graph if found is None else cached(graph, found.cache, {}, found.estimate_error)


def without_cache(graph: Graph) -> Graph:
    """A graph without its step cache and its report."""
    has = any(isinstance(block, CacheSteps | ReportSkipped) for _, block in blocks_inside(graph))
    return cast("Graph", _stripped(graph)) if has else graph


def _stripped(block: Block) -> Block:
    """A block without step caches inside, and without their report among its outputs."""
    children = {
        name: _stripped(child)
        for name, child in block.children().items()
        if not isinstance(child, CacheSteps | ReportSkipped)
    }
    if isinstance(block, Structure):
        left = [name for name in block.declared if name != "skipped"]
        return edited(block, nodes=children, declared=tuple(left))
    if isinstance(block, Loop):
        carry = tuple(name for name in block.carry if name != "skipped")
        return replace(block, carry=carry, body=cast("Structure", children[""]))
    return block.with_children(children) if children else block
