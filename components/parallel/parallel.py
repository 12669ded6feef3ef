"""`pipe.parallel`: a graph whose denoiser several processes compute together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...graph.edits import edited
from ...graph.errors import ConfigError
from ...graph.structure import Structure
from ..adapters.over import MachineComponent, OverComponent, innermost
from ..engines.engine import DENOISERS
from ..engines.optimized import Optimized
from .engine import Parallel
from .plans import Division, plan_of
from .processes import count_processes


def parallel(graph: Structure, plans: Sequence[Any]) -> Structure:
    """The graph with plans for several processes; see `Graph.parallel`.

    Raises:
        ConfigError: one process alone, unfit plans, a graph without a denoiser, or one that cannot be divided.
    """
    if tuple(plans) == (None,):
        return _with(graph, None)
    named = tuple(map(plan_of, plans))  # first, since wrong names are wrong with any number of processes
    return _with(graph, Parallel(Division.of(named, count_processes())))


def _with(graph: Structure, engine: Parallel | None) -> Structure:
    names = [name for name in DENOISERS if name in graph.bindings]
    if not names:
        raise ConfigError("parallel: this graph has no denoiser with weights. Bind a unet or a transformer.")
    changed: Mapping[str, Any] = {name: _over(name, graph.bindings[name], engine) for name in names}
    return edited(graph, bindings={**graph.bindings, **changed})


def _over(name: str, value: Any, engine: Parallel | None) -> Any:
    """A component, or the one below its adapters, with another engine for several processes."""
    if isinstance(value, Optimized) and isinstance(value.engine, Parallel):
        value = value.base
    elif isinstance(value, OverComponent) and not isinstance(value, MachineComponent):
        return replace(value, base=_over(name, value.base, engine))
    if engine is None:
        return value
    if reason := engine.refusal_of(name, innermost(value)):
        raise ConfigError(f"parallel: {name} {reason}.")
    if isinstance(value, Optimized) and (reason := engine.refusal_over(value.engine)):
        raise ConfigError(f"parallel: {reason}.")
    return Optimized(value, name, engine)
