"""`pipe.optimize`: a graph whose heavy components an engine runs."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

from ...graph.edits import edited
from ...graph.errors import ConfigError
from ...graph.structure import Structure
from ...registry import did_you_mean, engines
from .engine import Candidate, Engine
from .optimized import Optimized
from .programs import Report


def optimized(
    graph: Structure, engine: Any, components: Sequence[str] | str | None, settings: Mapping[str, Any]
) -> Structure:
    """The graph with an engine for its components; see `Graph.optimize`.

    Args:
        graph: any graph.
        engine: its name, an `Engine`, or None for a graph without engines.
        components: their names; None for those that the engine chooses.
        settings: fields of an engine that is named.

    Raises:
        ConfigError: an unknown engine, setting or component; one that the engine cannot run; no component at all.
    """
    outer = {name: value for name, value in graph.bindings.items() if is_outermost(value)}
    inner = {name: value.base if name in outer else value for name, value in graph.bindings.items()}
    plain = {name: value.base if isinstance(value, Optimized) else value for name, value in inner.items()}
    made = None if engine is None else engine_of(engine, settings)
    changed: Mapping[str, Any] = plain
    if made is not None:
        names = [components] if isinstance(components, str) else components
        chosen = _chosen(made, plain) if names is None else _named(made, plain, names)
        changed = {**plain, **{name: Optimized(plain[name], name, made) for name in chosen}}
    return edited(graph, bindings={**changed, **{name: _under(changed[name], value) for name, value in outer.items()}})


def is_outermost(component: Any) -> bool:
    """Whether an engine runs a component that may run what another engine runs."""
    return isinstance(component, Optimized) and component.engine.outermost


def _under(component: Any, outer: Optimized) -> Optimized:
    """A component with an outermost engine over it. ConfigError where that cannot be over the engine that it has."""
    if isinstance(component, Optimized) and (reason := outer.engine.refusal_over(component.engine)):
        raise ConfigError(f"optimize: {reason}.")
    return replace(outer, base=component)


def engine_of(engine: Any, settings: Mapping[str, Any]) -> Engine:
    """The engine of a name and settings, or the engine itself. ConfigError for an unknown name or setting."""
    if isinstance(engine, Engine):
        if settings:
            raise ConfigError(
                f"optimize: {type(engine).__name__} has its settings. Got {', '.join(settings)} beside it."
            )
        return engine
    if not isinstance(engine, str) or engine not in engines:
        hint = did_you_mean(engine, engines) if isinstance(engine, str) else f"Pass one of {', '.join(engines)}."
        raise ConfigError(f"optimize: needs an engine, got {engine!r}. {hint}")
    kind = engines[engine]
    known = [field.name for field in fields(kind)]
    for name in settings:
        if name not in known:
            raise ConfigError(f"optimize: {engine} has no setting {name!r}. {did_you_mean(name, known)}")
    return kind(**settings)


def _chosen(engine: Engine, bindings: Mapping[str, Any]) -> Sequence[str]:
    candidates = [Candidate.of(name, value) for name, value in bindings.items()]
    wanted = {one.name: engine.refusal(one) for one in candidates if engine.chosen(one)}
    if found := [name for name, reason in wanted.items() if not reason]:
        return found
    reasons = "".join(f"\n  {name} {reason}." for name, reason in wanted.items())
    raise ConfigError(f"optimize: {engine.name} can run no component of this graph.{reasons}")


def _named(engine: Engine, bindings: Mapping[str, Any], names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in bindings:
            raise ConfigError(f"optimize: the graph has no component {name!r}. {did_you_mean(name, bindings)}")
    refused = {name: reason for name in names if (reason := engine.refusal(Candidate.of(name, bindings[name])))}
    if refused:
        reasons = "".join(f"\n  {name} {reason}." for name, reason in refused.items())
        raise ConfigError(f"optimize: {engine.name} cannot run these components.{reasons}")
    return names


class Used(NamedTuple):
    """An engine of one component, and what it did."""

    engine: Engine
    report: Report

    def __str__(self) -> str:
        return f"{self.engine.name}: {self.report}"


def report(graph: Structure) -> Mapping[str, Used]:
    """What the engines of a graph did, by component: programs made, calls, and calls that torch ran, with reasons."""
    found = {name: _inner(value) for name, value in graph.bindings.items() if isinstance(value, Optimized)}
    return {name: Used(value.engine, value.programs.report) for name, value in found.items()}


def _inner(component: Optimized) -> Optimized:
    """The engine that runs a component, where an outermost one runs that."""
    inner = component.base
    return inner if is_outermost(component) and isinstance(inner, Optimized) else component
