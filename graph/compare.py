"""Two graphs side by side, and where one port's value comes from."""

from collections.abc import Sequence
from dataclasses import dataclass

from .block import Block, same_component
from .errors import Problem, WireError
from .graph import Graph
from .loop import Loop
from .paths import block_at, leaves, renamed
from .switch import Switch
from .typing import type_text
from .wiring import INPUTS, Edge, last_givers


@dataclass(frozen=True)
class Diff:
    """What changed from one graph to another, by path. Empty, and false, where they are equal."""

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
        return "\n".join(lines) or "no difference"


def graphs(graph: Graph, prefix: str = "") -> Sequence[tuple[str, Graph]]:
    """The graph and every graph inside it, with the path that its nodes begin with."""
    found = [(prefix, graph)]
    for name, block in graph.nodes.items():
        todo = [(f"{prefix}{name}.", block)]
        while todo:
            at, inner = todo.pop()
            if isinstance(inner, Graph):
                found += graphs(inner, at)
            else:
                todo += [(f"{at}{n}." if n else at, b) for n, b in inner.children().items()]
    return found


def all_edges(graph: Graph) -> dict[str, Edge]:
    """Every edge by the full path of its target."""
    return {prefix + e.target: e for prefix, g in graphs(graph) for e in g.edges}


def diff(old: Graph, new: Graph) -> Diff:
    """`graph.diff`."""
    a, b = ({".".join(path): block for path, block in leaves(g)} for g in (old, new))
    ours, theirs = all_edges(old), all_edges(new)
    moved = [
        (at, ours[at].source, theirs[at].source)
        for at in ours if at in theirs and ours[at].source != theirs[at].source
    ]  # fmt: skip
    names = {**old.bindings, **new.bindings}
    return Diff(
        added=tuple(p for p in b if p not in a),
        removed=tuple(p for p in a if p not in b),
        changed=tuple(p for p in a if p in b and a[p] != b[p]),
        moved=tuple(moved),
        components=tuple(n for n in names if not same_component(old.bindings.get(n), new.bindings.get(n))),
    )


def explain(graph: Graph, port: str) -> str:
    """`graph.explain`: the chain of edges behind an input, or who gives an output."""
    path, _, name = port.rpartition(".")
    if not path:
        if name in graph.outputs and name not in graph.inputs:
            giver = last_givers(graph.nodes)[name]
            return f"{name}  {graph.outputs[name]}\n  given by {giver}, the last node that gives it"
        if name in graph.inputs:
            return f"{name}  {graph.inputs[name]}\n  {_call(graph, name)}"
        raise WireError(
            Problem("no-input", port, f"no such port. Write 'node.port'; nodes are: {', '.join(graph.nodes)}.")
        )
    s = block_at(graph, path).signature
    if name in s.outputs and name not in s.inputs:
        readers = [t for t, e in all_edges(graph).items() if _full(t, e) == port]
        return f"{port}  {s.outputs[name]}\n  given by {path}; read by {', '.join(readers) or 'nobody'}"
    if name not in s.inputs:
        takes, gives = ", ".join(s.inputs) or "nothing", ", ".join(s.outputs) or "nothing"
        text = f"{path} has no port {name!r}. It takes {takes} and gives {gives}."
        raise WireError(Problem("no-input", port, text))
    return "\n".join([f"{port}  {type_text(s.inputs[name].type)}", *_chain(graph, port)])


def _full(target: str, edge: Edge) -> str:
    return target.removesuffix(edge.target) + edge.source


def _chain(graph: Graph, port: str) -> list[str]:
    edges = all_edges(graph)
    lines: list[str] = []
    while port in edges:
        edge = edges[port]
        how = "pinned" if edge.pinned else "by the wiring rule"
        head = port.removesuffix(edge.target)
        if edge.giver != INPUTS:
            lines.append(f"  <- {head}{edge.source}  ({how})")
            break
        if not head:
            lines.append(f"  <- {_call(graph, edge.output)}")
            break
        owner = head.rstrip(".")
        if isinstance(renamed(_owner(graph, owner))[0], Switch):  # `head` ends in the name of a case
            owner = owner.rpartition(".")[0]
        block, names = renamed(block_at(graph, owner))
        outside = names.inputs
        if isinstance(block, Loop) and edge.output == block.each:
            over = outside.get(block.over, block.over)
            lines.append(f"  <- each item of {owner}.{over}")
            port = f"{owner}.{over}"
        elif isinstance(block, Loop) and edge.output in block.carry:
            giver = last_givers(block.body.nodes)[edge.output]
            lines.append(f"  <- {owner}.{giver}.{edge.output} of the turn before, carried; at first:")
            port = f"{owner}.{outside.get(edge.output, edge.output)}"
        else:
            port = f"{owner}.{outside.get(edge.output, edge.output)}"
            lines.append(f"  <- {port}")
    return lines


def _owner(graph: Graph, path: str) -> Block:
    head = path.rpartition(".")[0]
    return block_at(graph, head) if head else graph


def _call(graph: Graph, name: str) -> str:
    port = graph.inputs[name]
    return f"the call: {name}={'…' if port.required else repr(port.default)}"
