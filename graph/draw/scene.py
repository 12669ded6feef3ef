"""A graph prepared for drawing, in any form: nodes with their class, components, and inner graphs."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..block import Block, ports_of
from ..errors import SfumatoError
from ..fields import EMPTY, Lazy
from ..paths import without_names
from ..ports import REQUIRED, VARIES, Input
from ..run_order import turn_orders
from ..structure import Container, Inside, Structure
from ..typing import type_text
from ..wiring import INPUTS, Edge, last_givers


@dataclass(frozen=True)
class Part:
    """A component of a node: its name in the graph, its type, and the class that is bound."""

    name: str
    type: str
    held: str
    """The class of the bound component; "" if none is bound."""
    required: bool = True


@dataclass(frozen=True)
class InnerScene:
    """A graph inside a container: the body of a loop, or a case of a switch."""

    label: str
    scene: "Scene"


@dataclass(frozen=True)
class Node:
    """One node, with its texts and inner graphs."""

    name: str
    kind: str  # "block", or the class of the container in small letters
    title: str  # the class, or the caption of the container
    block: Block
    parts: tuple[Part, ...]
    renamed: Mapping[str, str]  # inner name -> outer name
    once: bool = False
    slots: tuple[str, ...] = ()
    insides: tuple[InnerScene, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A graph prepared for drawing."""

    graph: Structure
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    carried: tuple[str, ...] = ()
    each: str = ""
    top: bool = True
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])  # name -> the node that gives it

    def type_of(self, edge: Edge) -> str:
        """The type of an edge as text."""
        if edge.giver == INPUTS:
            return type_text(self.graph.nodes[edge.taker].signature.inputs[edge.input].type)
        return type_text(self.graph.nodes[edge.giver].signature.outputs[edge.output].type)


def scene_of(graph: Structure) -> Scene:
    """Prepare a graph for drawing."""
    return _scene(graph, graph.bindings, {path: slot for slot, paths in graph.slots.items() for path in paths}, "")


def _scene(
    graph: Structure, bindings: Mapping[str, Any], slots: Mapping[str, str], path: str, level: Inside | None = None
) -> Scene:
    bindings = {**bindings, **graph.bindings}
    once = _once(level) if level else frozenset[str]()
    nodes = tuple(
        _node(name, block, bindings, slots, f"{path}{name}", name in once) for name, block in graph.nodes.items()
    )
    last = last_givers(graph.nodes)
    carried, each = (level.carried, level.item) if level else ((), "")
    return Scene(graph, nodes, graph.edges, carried, each, not path, {name: last[name] for name in graph.wanted})


def _node(
    name: str, outer: Block, bindings: Mapping[str, Any], slots: Mapping[str, str], path: str, once: bool
) -> Node:
    block, names = without_names(outer)
    sides = (names.outputs, names.inputs, names.components)
    renamed = {old: new for side in sides for old, new in side.items() if old != new}
    held = {old: bindings[renamed.get(old, old)] for old in _components(block) if renamed.get(old, old) in bindings}
    common: dict[str, Any] = {"block": block, "renamed": renamed, "once": once}
    common["slots"] = (slots[path],) if path in slots else ()
    if not isinstance(block, Container):
        return Node(name, "block", type(block).__name__, parts=tuple(_parts(block, renamed, held)), **common)
    insides = tuple(
        InnerScene(level.part, _scene(level.graph, held, slots, f"{level.path(path)}.", level))
        for level in block.insides()
    )
    kind = type(block).__name__.lower()
    return Node(name, kind, block.caption(renamed), parts=(), insides=insides, **common)


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
    """The class name of a component, loaded or not."""
    if not isinstance(held, Lazy):
        return type(held).__name__
    try:
        return getattr(held.type, "__name__", None) or "bound"
    except SfumatoError:  # an unknown class: `check` reports it, a drawing does not fail
        return "bound"


def _once(level: Inside) -> frozenset[str]:
    """The nodes of a repeated graph that run once before its turns."""
    return frozenset(line.name for line in turn_orders(level)[0].lines) if level.repeated else frozenset()


def default_of(port: Input, width: int = 24) -> str:
    """A default as short text: "" if there is none, "varies" if its readers have different ones."""
    if port.default is REQUIRED:
        return ""
    if port.default is VARIES:
        return "varies"
    short = reprlib.Repr()
    short.maxstring = short.maxother = width
    return short.repr(port.default)
