"""Bindings, slots and overlays: what a graph holds beside its blocks, and how a call swaps it."""

from collections.abc import Iterable, Mapping
from types import FunctionType, MethodType
from typing import Any, cast

from ..registry import HINTS, UnknownName, closest, did_you_mean, presets, table
from .block import Block, Lazy
from .errors import ConfigError, LoadError, Problem, WireError
from .graph import Graph
from .named import like
from .plan import needed, unbound
from .spaces import bound_problems
from .typing import assignable, is_callable, is_protocol, protocol_members, type_text, untagged


def bound(graph: Graph, components: Mapping[str, Any]) -> Graph:
    """`graph.bind`: raises `WireError` for unknown names, wrong classes, and latent spaces that do not fit."""
    found: list[Problem] = []
    made: dict[str, Any] = {}
    for name, value in components.items():
        if name not in graph.components:
            hint = "It is an input: give it in the call. " if name in graph.inputs else ""
            hint = hint or (f"{HINTS[name]} " if name in HINTS else "")
            text = f"no block of this graph needs such a component. {hint}{did_you_mean(name, graph.components)}"
            found.append(Problem("no-component", name, text, name, candidates=tuple(closest(name, graph.components))))
            continue
        part = graph.components[name]
        try:
            made[name] = value = _coerced(value, part.type, graph.bindings.get(name), alone=len(components) == 1)
        except (ConfigError, UnknownName) as error:
            found.append(Problem("component", name, str(error), type(value).__name__, type_text(part.type)))
            continue
        if not _is_a(value, part.type):
            came = type_text(value.type) if isinstance(value, Lazy) else type(value).__name__
            who = ", ".join(n for n, b in graph.nodes.items() if name in b.signature.components)
            text = f"is {came}, but {who} needs {type_text(part.type)}{_lacking(value, part.type)}."
            found.append(Problem("component", name, text, came, type_text(part.type)))
    if not found:
        bindings = {**graph.bindings, **made}
        found = bound_problems(graph, bindings)
        if not found:
            return graph._edit(bindings=bindings)
    raise WireError(found)


def _coerced(value: Any, kind: Any, current: Any, *, alone: bool) -> Any:
    """What a name, a config dict or a spec stands for: the component type's own `coerce(value, current)`, a handle.

    `coerce` also refuses an object that cannot follow on `current`; not where others are bound with it, which it may
    belong to.
    """
    cls = untagged(kind)
    if isinstance(value, type) and not is_callable(cls):
        raise ConfigError(f"is the class {value.__name__}, not an object of it. Make one: {value.__name__}(…).")
    if hasattr(cls, "coerce") and (isinstance(value, str | Mapping) or (alone and current and isinstance(value, cls))):
        return cls.coerce(value, current.load() if isinstance(current, Lazy) else current)
    make = getattr(value, "bindable", None)  # a spec
    return value if make is None else make()


def _is_a(value: Any, kind: Any) -> bool:
    cls = untagged(kind)
    if isinstance(value, Lazy):
        return value.type is None or assignable(value.type, cls) or _answers(value.type, cls)
    if isinstance(cls, type) and not is_protocol(cls):
        return isinstance(value, cls)
    if callable(value) and (is_callable(cls) or (is_protocol(cls) and protocol_members(cls) == {"__call__"})):
        seen = value if isinstance(value, FunctionType | MethodType) else type(value)
        return isinstance(value, type) or assignable(seen, cls)
    return assignable(type(value), cls) or _answers(value, cls)


def _answers(value: Any, cls: Any) -> bool:
    """Whether an object or class has the methods of a protocol, and an object its attributes too.

    What a class sets in its __init__ cannot be seen before one is made.
    """
    if not is_protocol(cls):
        return False

    def answers(name: str) -> bool:
        if name == "__call__":
            return any(name in vars(c) for c in (value if isinstance(value, type) else type(value)).__mro__)
        return hasattr(value, name) or (isinstance(value, type) and not callable(getattr(cls, name, None)))

    return all(map(answers, protocol_members(cls)))


def _lacking(value: Any, kind: Any) -> str:
    cls, given = untagged(kind), value.type if isinstance(value, Lazy) else value
    lost = sorted(n for n in protocol_members(cls) if not hasattr(given, n)) if is_protocol(cls) else []
    return f": it has no {', '.join(lost)}" if lost else ", an object of that class"


def using(graph: Graph, swaps: Mapping[str, Any]) -> Graph:
    """`graph.using`: components and slots swapped, for good."""
    components = {n: v for n, v in swaps.items() if n in graph.components}
    slots = {n: v for n, v in swaps.items() if n in graph.slots}
    known = [*graph.slots, *graph.components]
    found = [
        Problem(
            "no-slot", name, "is neither a slot nor a component. "
            + (f"{HINTS[name]} " if name in HINTS else "")
            + (f"Did you mean {closest(name, known, 1)[0]!r}? " if closest(name, known, 1) else "")
            + f"Slots: {', '.join(graph.slots) or 'none'}. Components: {', '.join(graph.components) or 'none'}.",
            name, candidates=tuple(closest(name, known)),
        )
        for name in swaps if name not in known
    ]  # fmt: skip
    blocks: dict[str, Block] = {}
    for name, value in slots.items():
        try:
            blocks[name] = as_block(name, value)
        except (ConfigError, UnknownName) as error:
            found.append(Problem("slot", name, str(error), type(value).__name__))
    if found:
        raise WireError(found)
    for name, block in blocks.items():
        for path in graph.slots[name]:
            graph = graph.replace(path, like(graph[path], block))
    return bound(graph, components) if components else graph


def as_block(slot: str, value: Any) -> Block:
    """The block for a slot: itself, or made from a published name or a config dict (`{"_class_name": …}`)."""
    if isinstance(value, Block):
        return value
    names = table(slot) or table("block")
    assert names is not None
    if isinstance(value, str):
        return cast(type[Block], names[value])()
    if isinstance(value, Mapping) and "_class_name" in value:
        config = cast(Mapping[str, Any], value)
        return cast(type[Block], names[config["_class_name"]]).from_config(config)
    if isinstance(value, type) and issubclass(value, Block):
        raise ConfigError(f"is the class {value.__name__}. Make a block of it: {slot}={value.__name__}().")
    raise ConfigError(f"takes a block, a name, or a config dict with '_class_name', but {type(value).__name__} came.")


_KEPT = 64  # overlays kept per graph; a service that swaps more than this pays 1 ms for each swap


def overlay(graph: Graph, swaps: Mapping[str, Any]) -> Graph:
    """The graph with a call's swaps, resolved once and kept on the graph."""
    if not swaps:
        return graph
    cache: dict[Any, Graph] = graph.__dict__.setdefault("_overlays", {})
    key = tuple((name, _key(value)) for name, value in swaps.items())
    made = cache.get(key)  # once: another thread may drop it
    if made is None:
        made = using(graph, swaps)
        while len(cache) >= _KEPT:
            cache.pop(next(iter(cache)), None)
        cache[key] = made
    return made


def _key(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "config", repr(sorted(cast(Mapping[str, Any], value).items()))
    try:
        hash(value)
    except TypeError:
        return "object", id(value)  # it lives as long as the overlay that holds it
    return type(value), value


AUTO = "auto"
"""The task of a graph that is another one in each call, by the names that are given."""


def sister(graph: Graph, task: str) -> Graph:
    """`graph.task`: the preset of the same family for another task, holding the same components.

    What the other task has no block for is kept at hand, for a task that has.
    """
    if graph.preset is None:
        text = "this graph was not made by a preset, so it has no sister tasks. Make one: sf.load(…, task=…)."
        raise WireError(Problem("task", task, text))
    family = presets[graph.preset[0]]
    if task not in (*family.tasks, AUTO):
        near = closest(task, family.tasks, 1)
        text = f"{graph.preset[0]} has no such task. {did_you_mean(task, family.tasks)}"
        raise WireError(Problem("task", task, text, candidates=tuple(near)))
    made: Graph = family.sister(graph, task)
    held = {**graph.spare, **graph.bindings}
    bound = made.bind({name: value for name, value in held.items() if name in made.components})
    return bound.sparing({name: value for name, value in held.items() if name not in made.components})


def check(graph: Graph) -> list[Problem]:
    """`graph.check`: what a run would be refused for. A block that an edit left without a reader rests: no problem."""
    wanted = graph.declared or tuple(graph.outputs)
    found: list[Problem] = []
    for name, nodes in unbound(graph, wanted, graph.bindings).items():
        kind = type_text(graph.components[name].type)
        text = f"no component is bound, and {', '.join(nodes)} cannot do without: {kind}. Write graph.bind({name}=…)."
        found.append(Problem("unbound", name, text, needed=kind))
    found += bound_problems(graph, graph.bindings)
    found += _unready(graph, wanted)
    return found


def _unready(graph: Graph, wanted: tuple[str, ...]) -> Iterable[Problem]:
    for name, value in needed(graph, wanted).items():
        if isinstance(value, Lazy):
            try:
                value.ready()
            except LoadError as error:
                yield Problem("not-ready", name, str(error))
