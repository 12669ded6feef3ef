"""A graph as text of at most 100 columns: inputs, nodes with edges and components, outputs."""

from collections.abc import Iterator, Mapping
from textwrap import wrap

from ...registry import printable
from ..structure import Structure
from ..typing import type_text
from ..wiring import INPUTS
from .scene import Node, Scene, class_name, default_of, scene_of

WIDTH = 100


def text(graph: Structure) -> str:
    """The drawing for a terminal."""
    scene = scene_of(graph)
    head = f"Graph {' · '.join(graph.preset)}" if graph.preset else "Graph"
    lines = [f"{head}  ({_count(len(graph.nodes), 'node')}, {_count(len(graph.components), 'component')})"]
    lines += ["", "inputs", *_inputs(graph), "", "nodes", *_nodes(scene, "  "), "", "outputs"]
    lines += _table({name: (type_text(graph.outputs[name].type), f"<- {node}") for name, node in scene.outputs.items()})
    if graph.components:
        lines += ["", "components", *_components(graph, scene)]
    if graph.slots:
        lines += ["", "slots", *_table({slot: (", ".join(paths), "") for slot, paths in graph.slots.items()})]
    return "\n".join(printable(line.rstrip()) for line in lines)


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _inputs(graph: Structure) -> Iterator[str]:
    rows: dict[str, tuple[str, str]] = {}
    for name, port in graph.inputs.items():
        default = default_of(port)
        rows[name] = (type_text(port.type), "(required)" if not default else f"= {default}")
    yield from _table(rows)


def _table(rows: Mapping[str, tuple[str, str]], indent: str = "  ") -> Iterator[str]:
    """Rows of name, type and rest in columns. A type that is too long is wrapped."""
    if not rows:
        yield f"{indent}none"
        return
    first = min(max(map(len, rows)), 28)
    second = min(max(len(kind) for kind, _ in rows.values()), WIDTH - len(indent) - first - 30)
    for name, (kind, rest) in rows.items():
        pieces = wrap(kind, second, break_on_hyphens=False) or [""]
        yield f"{indent}{name:<{first}}  {pieces[0]:<{second}}  {_cut(rest, WIDTH - len(indent) - first - second - 4)}"
        yield from (f"{indent}{'':<{first}}  {piece}" for piece in pieces[1:])


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def _nodes(scene: Scene, indent: str) -> Iterator[str]:
    width = max((len(node.name) for node in scene.nodes), default=0)
    for node in scene.nodes:
        marks = "".join([" · once per loop" if node.once else "", *(f" · slot {slot}" for slot in node.slots)])
        kind = node.title if node.kind == "block" else f"{node.kind}: {node.title}"
        yield from _wrapped(f"{indent}{node.name:<{width}}  {kind}{_renamed(node)}{marks}", indent)
        rows: dict[str, tuple[str, str]] = {}
        for e in scene.edges:
            if e.taker == node.name:
                source = f"{e.giver}.{e.output}"
                if e.giver == INPUTS and not scene.top:
                    source = _from_loop(scene, e.output)
                rows[e.input] = (scene.type_of(e), f"<- {source}{'  (pinned)' if e.pinned else ''}")
        for part in node.parts:
            rows[part.name] = (part.type, f"component, {_held(part.held, part.required)}")
        if rows:
            yield from _table(rows, f"{indent}    ")
        for inside in node.insides:
            if inside.label:
                yield f"{indent}    case {inside.label}:"
            yield from _nodes(inside.scene, f"{indent}{'      ' if inside.label else '    '}| ")


def _held(held: str, required: bool) -> str:
    if held:
        return f"bound: {held}"
    return "not bound" if required else "not bound (optional)"


def _from_loop(scene: Scene, name: str) -> str:
    if name == scene.each:
        return f"each {name}"
    return f"carried {name}" if name in scene.carried else f"outer {name}"


def _renamed(node: Node) -> str:
    return f"  ({', '.join(f'{old} as {new}' for old, new in node.renamed.items())})" if node.renamed else ""


def _wrapped(line: str, indent: str) -> list[str]:
    return wrap(line, WIDTH, subsequent_indent=f"{indent}    ", drop_whitespace=True, break_on_hyphens=False)


def _components(graph: Structure, scene: Scene) -> Iterator[str]:
    rows: dict[str, tuple[str, str]] = {}
    for name, part in graph.components.items():
        held = graph.bindings.get(name)
        rows[name] = (type_text(part.type), _held("" if held is None else class_name(held), part.required))
    yield from _table(rows)
