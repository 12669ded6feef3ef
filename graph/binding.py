"""Bindings: the components that a graph holds beside its blocks, and their problems."""

from collections.abc import Collection, Iterable, Mapping
from os import PathLike
from types import FunctionType, MethodType
from typing import Any, TypeVar, get_origin

from ..registry import HINTS, UnknownName, closest, did_you_mean, hint_for_class
from .block import Block
from .edits import edited
from .errors import ConfigError, LoadError, Problem, WireError
from .extra_channels import lacking_channels
from .fields import Lazy
from .named import named
from .own_components import own_components
from .run_order import needed, unbound
from .spaces import bound_conflicts
from .structure import Structure
from .typing import assignable, is_callable, is_protocol, protocol_members, type_text, union_members, untagged

S = TypeVar("S", bound=Structure)


def bound(graph: S, components: Mapping[str, Any]) -> S:
    """`graph.bind`: raises `WireError` for unknown names, wrong classes, and latent spaces that do not fit."""
    graph = with_own_components(graph, components)
    problems: list[Problem] = []
    made: dict[str, Any] = {}
    for name, value in components.items():
        if name not in graph.components:
            hint = "It is an input: give it in the call. " if name in graph.inputs else ""
            hint = HINTS[name] if name in HINTS and not hint else hint + did_you_mean(name, graph.components)
            text = f"no block of this graph needs such a component. {hint}"
            near = tuple(closest(name, graph.components))
            problems.append(Problem("no-component", name, text, name, candidates=near))
            continue
        kind = graph.components[name].type
        try:
            made[name] = value = _coerced(value, kind, graph.bindings.get(name), alone=len(components) == 1)
        except (ConfigError, UnknownName) as error:
            problems.append(Problem("component", name, str(error), type(value).__name__, type_text(kind)))
            continue
        if not _is_a(value, kind):
            actual = type_text(value.type) if isinstance(value, Lazy) else type(value).__name__
            who = ", ".join(n for n, b in graph.nodes.items() if name in b.signature.components)
            text = f"is {actual}, but {who} needs {type_text(kind)}{_lacking(value, kind)}."
            if isinstance(value, str | PathLike):
                path = repr(str(value))
                text = f"is {path}, but {who} needs {type_text(kind)}. "
                text += f"If that is a path, load it: sf.load_component({path})."
            text = hint_for_class(value.type if isinstance(value, Lazy) else type(value)) or text
            problems.append(Problem("component", name, text, actual, type_text(kind)))
    bindings = {**graph.bindings, **made}
    if problems := problems or _conflicts(graph, bindings):
        raise WireError(problems)
    try:
        return edited(graph, bindings=bindings)
    except ConfigError as error:  # of adapters
        raise WireError(Problem("adapters", ", ".join(made), str(error))) from error


def with_own_components(graph: S, names: Collection[str]) -> S:
    """The graph whose blocks have components of their own for those of these names that are names of such.

    They are bound to the components that the blocks shared.
    """
    for name in [name for name in names if name in own_components(graph)]:
        shared: list[str] = []
        nodes = {node: _with_own(block, name, shared) for node, block in graph.nodes.items()}
        current = next((graph.bindings[old] for old in shared if old in graph.bindings), None)
        bindings = graph.bindings if current is None else {**graph.bindings, name: current}
        graph = edited(graph, nodes=nodes, bindings=bindings)
    return graph


def _with_own(block: Block, name: str, shared: list[str]) -> Block:
    """The block with a component of its own, wherever one inside can have it. shared: gets the component's old name."""
    for old, part in block.signature.components.items():
        if part.own == name and old != name:
            shared.append(old)
            return named(block, **{old: name})
    children = block.children()
    return block.with_children({n: _with_own(b, name, shared) for n, b in children.items()}) if children else block


def _coerced(value: Any, kind: Any, current: Any, *, alone: bool) -> Any:
    """The component for a name, a config dict (`coerce(value, current)` of its type) or a spec (a handle).

    `current` is an object or a handle. `coerce` also refuses an object that does not fit it, but not where others are
    bound in the same call.
    """
    cls = untagged(kind)
    if isinstance(value, type) and not is_callable(cls):
        raise ConfigError(f"is the class {value.__name__}, not an object of it. Make one: {value.__name__}(…).")
    if hasattr(cls, "coerce"):
        fitting = alone and current and isinstance(value, get_origin(cls) or cls)  # `Autoencoder[Any]` is an alias
        if fitting or isinstance(value, str | Mapping):
            return cls.coerce(value, current)
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
    if (members := union_members(cls)) and len(members) > 1:  # `Encoder | None`
        return any(_answers(value, member) for member in members)
    if not is_protocol(cls):
        return False

    def answers(name: str) -> bool:
        if name == "__call__":
            return any(name in vars(c) for c in (value if isinstance(value, type) else type(value)).__mro__)
        return hasattr(value, name) or (isinstance(value, type) and not callable(getattr(cls, name, None)))

    return all(map(answers, protocol_members(cls)))


def _lacking(value: Any, kind: Any) -> str:
    cls, actual = untagged(kind), value.type if isinstance(value, Lazy) else value
    lost = sorted(n for n in protocol_members(cls) if not hasattr(actual, n)) if is_protocol(cls) else []
    return f": it has no {', '.join(lost)}" if lost else ", an object of that class"


def check(graph: Structure) -> list[Problem]:
    """`graph.check`: the reasons to refuse a run. A block without a reader does not run, so it is no problem."""
    problems: list[Problem] = []
    for name, nodes in unbound(graph, graph.wanted).items():
        kind = type_text(graph.components[name].type)
        text = f"no component is bound, and {', '.join(nodes)} needs {kind}. Write graph.bind({name}=…)."
        problems.append(Problem("unbound", name, text, needed=kind))
    problems += _conflicts(graph, graph.bindings)
    problems += [Problem("not-ready", name, str(error)) for name, error in not_ready(graph)]
    return problems


def _conflicts(graph: Structure, bindings: Mapping[str, Any]) -> list[Problem]:
    """Components that do not fit each other, or the blocks that use them."""
    return bound_conflicts(graph, bindings) or list(lacking_channels(graph, bindings))


def not_ready(graph: Structure) -> Iterable[tuple[str, LoadError]]:
    """The components that a run needs and that cannot be loaded. Reads no weights."""
    for name, value in needed(graph, graph.wanted).items():
        if isinstance(value, Lazy):
            try:
                value.ready()
            except LoadError as error:
                yield name, error
