"""What there is to draw, whatever it is drawn with: nodes with their class, components, and the graphs inside."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..block import EMPTY, Block, Lazy, ports_of
from ..errors import SfumatoError
from ..graph import Graph
from ..loop import Loop
from ..paths import unwrapped
from ..plan import plan_of
from ..ports import REQUIRED, VARIES, Input
from ..switch import Switch
from ..typing import type_text
from ..wiring import INPUTS, Edge, last_givers


@dataclass(frozen=True)
class Part:
    """A component of a node: its name in the graph, its class, and what stands for it."""

    name: str
    type: str
    held: str
    """The class of what is bound; "" where nothing is."""
    required: bool = True


@dataclass(frozen=True)
class Inside:
    """A graph inside a node: the body of a loop, or a case of a switch."""

    label: str
    scene: "Scene"


@dataclass(frozen=True)
class Node:
    """One node: what is written on it, and what is inside."""

    name: str
    kind: str  # "block", "loop", "switch", "graph"
    title: str  # the class, or what the loop goes over
    block: Block
    parts: tuple[Part, ...]
    renamed: Mapping[str, str]  # inner name -> outer name
    once: bool = False
    slots: tuple[str, ...] = ()
    insides: tuple[Inside, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A graph as something to draw."""

    graph: Graph
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    carried: tuple[str, ...] = ()
    each: str = ""
    top: bool = True
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])  # name -> the node that gives it

    def type_of(self, edge: Edge) -> str:
        """The type of what flows along an edge, in words."""
        if edge.giver == INPUTS:
            return type_text(self.graph.nodes[edge.taker].signature.inputs[edge.input].type)
        return type_text(self.graph.nodes[edge.giver].signature.outputs[edge.output].type)


def scene_of(graph: Graph) -> Scene:
    """The whole graph, ready to draw."""
    return _scene(graph, graph.bindings, {path: slot for slot, paths in graph.slots.items() for path in paths}, "")


def _scene(
    graph: Graph, bound: Mapping[str, Any], slots: Mapping[str, str], path: str, loop: Loop | None = None
) -> Scene:
    bound = {**bound, **graph.bindings}
    once = _once(loop) if loop else frozenset[str]()
    nodes = tuple(
        _node(name, block, bound, slots, f"{path}{name}", name in once) for name, block in graph.nodes.items()
    )
    names = graph.declared or tuple(graph.outputs)
    last = last_givers(graph.nodes)
    carried, each = (loop.carry, loop.each) if loop else ((), "")
    return Scene(graph, nodes, graph.edges, carried, each, not path, {name: last[name] for name in names})


def _node(name: str, outer: Block, bound: Mapping[str, Any], slots: Mapping[str, str], path: str, once: bool) -> Node:
    block, inner = unwrapped(outer)
    renamed = {old: new for new, old in inner.items() if old != new}
    here = {old: bound[renamed.get(old, old)] for old in _components(block) if renamed.get(old, old) in bound}
    common: dict[str, Any] = {"block": block, "renamed": renamed, "once": once}
    common["slots"] = (slots[path],) if path in slots else ()
    if isinstance(block, Loop):
        title = f"for {block.each} in {renamed.get(block.over, block.over)} · carries {', '.join(block.carry)}"
        body = _scene(block.body, here, slots, f"{path}.", block)
        return Node(name, "loop", title, parts=(), insides=(Inside("", body),), **common)
    if isinstance(block, Switch):
        cases = [Inside(case, _scene(g, here, slots, f"{path}.{case}.")) for case, g in block._all().items()]
        title = f"one of {', '.join(c.label for c in cases)} · by {renamed.get(block.on, block.on)}"
        return Node(name, "switch", title, parts=(), insides=tuple(cases), **common)
    if isinstance(block, Graph):
        title = f"graph of {len(block.nodes)}"
        return Node(
            name, "graph", title, parts=(), insides=(Inside("", _scene(block, here, slots, f"{path}.")),), **common
        )
    return Node(name, "block", type(block).__name__, parts=tuple(_parts(block, renamed, here)), **common)


def _components(block: Block) -> Iterator[str]:
    yield from (block.signature.components if block.children() else ports_of(type(block)).components)


def _parts(block: Block, renamed: Mapping[str, str], bound: Mapping[str, Any]) -> Iterator[Part]:
    for name, part in ports_of(type(block)).components.items():
        own = getattr(block, name, EMPTY)
        held = bound.get(name, None if own is EMPTY else own)
        yield Part(
            renamed.get(name, name), type_text(part.type), "" if held is None else class_name(held), part.required
        )


def class_name(held: Any) -> str:
    """The class of a component, of one that is not loaded too."""
    if not isinstance(held, Lazy):
        return type(held).__name__
    try:
        return getattr(held.type, "__name__", None) or "bound"
    except SfumatoError:  # a class that is not here: `check` tells, a drawing does not fail
        return "bound"


def _once(loop: Loop) -> frozenset[str]:
    """The nodes of a body that run once per loop, as the runner finds them."""
    once, _ = plan_of(loop.body, loop.carry).split(frozenset((loop.each, *loop.carry)))
    return frozenset(line.name for line in once.lines)


def default_of(port: Input, width: int = 24) -> str:
    """A default in few letters: "" where there is none, "varies" where the readers disagree."""
    if port.default is REQUIRED:
        return ""
    if port.default is VARIES:
        return "varies"
    short = reprlib.Repr()
    short.maxstring = short.maxother = width
    return short.repr(port.default)
