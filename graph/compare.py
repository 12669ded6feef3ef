"""Two graphs side by side, and the source of one port's value."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..registry import printable
from .errors import Problem, WireError
from .fields import same_component
from .paths import OuterNames, block_at, without_names
from .structure import Container, Inside, Structure
from .typing import type_text
from .wiring import INPUTS, Edge, last_givers


@dataclass(frozen=True)
class Diff:
    """The differences between two graphs, by path. Empty, and false, where the graphs are equal."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()  # target, old source, new source
    components: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.changed, self.moved, self.components))

    def __str__(self) -> str:
        lines = [f"+ {p}" for p in self.added] + [f"- {p}" for p in self.removed] + [f"~ {p}" for p in self.changed]
        lines += [f"  {target}: {old} -> {new}" for target, old, new in self.moved]
        lines += [f"  component {name}" for name in self.components]
        return "\n".join(map(printable, lines)) or "no difference"


class Level(NamedTuple):
    """A graph inside a graph, and the container that holds it."""

    prefix: str
    """The prefix of its nodes' paths: "" or "denoise."."""
    graph: Structure
    owner: str = ""
    """The path of the container."""
    inside: Inside | None = None
    names: OuterNames | None = None
    """The names of the container's ports outside."""


def levels(graph: Structure) -> Iterator[Level]:
    """The graph and every graph inside it."""
    yield from _below(Level("", graph))


def _below(level: Level) -> Iterator[Level]:
    yield level
    for name, outer in level.graph.nodes.items():
        block, names = without_names(outer)
        if isinstance(block, Container):
            owner = f"{level.prefix}{name}"
            for inside in block.insides():
                yield from _below(Level(f"{inside.path(owner)}.", inside.graph, owner, inside, names))


def _edges(graph: Structure) -> dict[str, tuple[Level, Edge]]:
    """Every edge by the full path of its target, and the graph that has it."""
    return {level.prefix + e.target: (level, e) for level in levels(graph) for e in level.graph.edges}


def _sources(graph: Structure) -> dict[str, str]:
    return {target: edge.source for target, (_, edge) in _edges(graph).items()}


def _parts(graph: Structure) -> dict[str, tuple[type, Any]]:
    """The parts of a graph, by path: blocks, and the settings of containers."""
    return dict(_parts_of(graph, ""))


def _parts_of(graph: Structure, prefix: str) -> Iterator[tuple[str, tuple[type, Any]]]:
    for name, outer in graph.nodes.items():
        block, _ = without_names(outer)
        path = f"{prefix}{name}"
        if not isinstance(block, Container):
            yield path, (type(block), block)
            continue
        if settings := block.settings():
            yield path, (type(block), settings)
        for inside in block.insides():
            yield from _parts_of(inside.graph, f"{inside.path(path)}.")


def diff(old: Structure, new: Structure) -> Diff:
    """`graph.diff`."""
    a, b = _parts(old), _parts(new)
    ours, theirs = _sources(old), _sources(new)
    before, after = old.adapted_bindings, new.adapted_bindings
    return Diff(
        added=tuple(p for p in b if p not in a),
        removed=tuple(p for p in a if p not in b),
        changed=tuple(p for p in a if p in b and a[p] != b[p]),
        moved=tuple((at, ours[at], theirs[at]) for at in ours if at in theirs and ours[at] != theirs[at]),
        components=tuple(n for n in {**before, **after} if not same_component(before.get(n), after.get(n))),
    )


def explain(graph: Structure, port: str) -> str:
    """`graph.explain`: the chain of edges behind an input, or the node that gives an output."""
    path, _, name = port.rpartition(".")
    if not path:
        if name in graph.outputs and name not in graph.inputs:
            giver = last_givers(graph.nodes)[name]
            return f"{name}  {graph.outputs[name]}\n  given by {giver}, the last node that gives it"
        if name in graph.inputs:
            return f"{name}  {graph.inputs[name]}\n  {_from_call(graph, name)}"
        raise WireError(
            Problem("no-input", port, f"no such port. Write 'node.port'; nodes are: {', '.join(graph.nodes)}.")
        )
    s = block_at(graph, path).signature
    if name in s.outputs and name not in s.inputs:
        readers = [target for target, (level, e) in _edges(graph).items() if level.prefix + e.source == port]
        return f"{port}  {s.outputs[name]}\n  given by {path}; read by {', '.join(readers) or 'nobody'}"
    if name not in s.inputs:
        takes, gives = ", ".join(s.inputs) or "nothing", ", ".join(s.outputs) or "nothing"
        text = f"{path} has no port {name!r}. It takes {takes} and gives {gives}."
        raise WireError(Problem("no-input", port, text))
    return "\n".join([f"{port}  {type_text(s.inputs[name].type)}", *_chain(graph, port)])


def _chain(graph: Structure, port: str) -> Iterator[str]:
    edges = _edges(graph)
    while port in edges:
        level, edge = edges[port]
        inside, owner, name = level.inside, level.owner, edge.output
        if edge.giver != INPUTS:
            yield f"  <- {level.prefix}{edge.source}  ({'pinned' if edge.pinned else 'by the wiring rule'})"
            return
        if inside is None or level.names is None:
            yield f"  <- {_from_call(graph, name)}"
            return
        outside = level.names.inputs
        if inside.repeated and name == inside.item:
            port = f"{owner}.{outside.get(inside.over, inside.over)}"
            yield f"  <- each item of {port}"
        elif name in inside.carried:
            giver = last_givers(inside.graph.nodes)[name]
            port = f"{owner}.{outside.get(name, name)}"
            yield f"  <- {level.prefix}{giver}.{name} of the turn before, carried; at first:"
        else:
            port = f"{owner}.{outside.get(name, name)}"
            yield f"  <- {port}"


def _from_call(graph: Structure, name: str) -> str:
    port = graph.inputs[name]
    return f"the call: {name}={'…' if port.required else repr(port.default)}"
