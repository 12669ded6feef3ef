"""Run orders: the nodes that some outputs of a graph need, in order. A graph keeps one for each set of outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_origin

from .analysis import nodes_to_run
from .block import Block, ports_of
from .cache import cached
from .paths import without_names
from .ports import Output
from .structure import Container, Inside, Structure
from .typing import union_members, untagged
from .wiring import INPUTS, last_givers

Value = tuple[str, str]  # node, port


@dataclass(frozen=True, slots=True)
class Line:
    """One node, ready to run: without renamings, with its wires, and with the values that no later node reads."""

    name: str
    block: Block
    args: tuple[tuple[str, Value], ...]  # parameter of the block, the source of its value
    knobs: tuple[tuple[str, Value], ...]
    outputs: tuple[Value, ...]  # in the order of the block's own outputs
    output_names: tuple[str, ...]  # the block's own, in the same order
    components: tuple[tuple[str, str], ...]  # component field, the name it is bound under
    names: Mapping[str, str]  # component name inside -> outside, for blocks that hold graphs
    container: Container | None  # the block, if it holds graphs
    insides: tuple[Inside, ...]  # the graphs that it holds
    memory: tuple[str, ...]
    running: str | None
    returns: type | None
    dead: tuple[Value, ...]
    makes_function: bool
    until: str  # of a function maker, the last node that may call its functions; "" where they are given out

    def bindings_inside(self, bindings: Mapping[str, Any]) -> dict[str, Any]:
        """These bindings, by the names of the components inside a block that holds graphs."""
        return {name: bindings[outer] for name, outer in self.names.items() if outer in bindings}


@dataclass(frozen=True)
class Span:
    """Lines of a run order that lease their components together: a node and all nodes that may call its functions.

    Spans that overlap are one. `last` is the index of its end in the order.
    """

    lines: tuple[Line, ...]
    last: int
    lasting: bool
    """Whether functions leave the order, so that the lease lasts as long as they do."""

    whole: bool
    """Whether it is leased as one. A graph by itself is not: its nodes are leased one after another."""


@dataclass(frozen=True)
class RunOrder:
    """The nodes that run, in order, and where the outputs come from."""

    lines: tuple[Line, ...]
    outputs: tuple[tuple[str, Value], ...]

    @cached_property
    def spans(self) -> Mapping[str, Span]:
        """The span of each line that may need components, by the line's name."""
        return _spans(self)

    @property
    def makes_function(self) -> bool:
        """Whether a node gives a function, which needs the components of its maker as long as it lives."""
        return any(line.makes_function for line in self.lines)

    def split(self, varying: frozenset[str]) -> tuple["RunOrder", "RunOrder"]:
        """The nodes that do not depend on these inputs, and the others: a loop runs them once, and in every turn."""
        moving: set[Value] = {(INPUTS, name) for name in varying}
        once: list[Line] = []
        each: list[Line] = []
        for line in self.lines:
            reads = [value for _, value in (*line.args, *line.knobs)]
            if line.memory or not line.outputs or any(v in moving for v in reads) or _keeps_memory(line.block):
                each.append(line)
                moving.update(line.outputs)
            else:
                once.append(line)
        read_later = {v for line in each for _, v in (*line.args, *line.knobs)} | {v for _, v in self.outputs}
        kept = {value for line in once for value in line.outputs} & read_later

        def without_kept(lines: list[Line]) -> tuple[Line, ...]:
            return tuple(replace(line, dead=tuple(v for v in line.dead if v not in kept)) for line in lines)

        return RunOrder(without_kept(once), tuple((f"{n}.{p}", (n, p)) for n, p in kept)), RunOrder(
            without_kept(each), self.outputs
        )


def _keeps_memory(block: Block) -> bool:
    """Whether some node inside keeps memory for the loop around, not for one inside."""
    if isinstance(block, Container) and any(inside.repeated for inside in block.insides()):
        return False
    children = block.children()
    return any(map(_keeps_memory, children.values())) if children else bool(block.signature.memory)


def gives_function(output: Output) -> bool:
    """Whether an output is a function, which needs the inputs of its maker as long as it lives."""
    return any(get_origin(untagged(arm)) is get_origin(Callable[[], None]) for arm in union_members(output.type))


def turn_orders(inside: Inside) -> tuple[RunOrder, RunOrder]:
    """The two orders of a repeated graph: one that runs once before its turns, and one that runs in every turn."""

    def make() -> tuple[RunOrder, RunOrder]:
        return run_order(inside.graph, inside.outputs).split(inside.varying)

    return cached(inside.graph, "turn orders", make, (inside.item, inside.carried, inside.outputs))


def run_order(graph: Structure, outputs: tuple[str, ...]) -> RunOrder:
    """The run order for these outputs, without nodes whose outputs have no reader."""
    return cached(graph, "run order", lambda: _make(graph, outputs), outputs)


def _make(graph: Structure, outputs: tuple[str, ...]) -> RunOrder:
    last = last_givers(graph.nodes)
    runs = nodes_to_run(graph.nodes, graph.edges, outputs)
    wires: dict[str, list[tuple[str, Value]]] = {name: [] for name in graph.nodes}
    for e in graph.edges:
        wires[e.taker].append((e.input, (e.giver, e.output)))
    finals = tuple((name, (last[name], name)) for name in outputs)
    last_read: dict[Value, str] = {}
    order = {name: i for i, name in enumerate(graph.nodes)}
    for name in graph.nodes:
        if name in runs:
            last_read |= {value: name for _, value in wires[name] if value[0] != INPUTS}
            for port in graph.nodes[name].signature.outputs:
                last_read.setdefault((name, port), name)
    forever = {value for _, value in finals}
    untils: dict[str, str] = {}
    for name in reversed([n for n in graph.nodes if n in runs]):
        made = graph.nodes[name].signature.outputs
        if any(map(gives_function, made.values())):  # it may be called as long as it lives, and then reads its wires
            until = max((last_read[name, port] for port in made), key=order.__getitem__)
            given_out = any((name, port) in forever for port in made)
            untils[name] = "" if given_out else until
            for value in [v for _, v in wires[name] if v[0] != INPUTS]:
                last_read[value] = max(last_read[value], until, key=order.__getitem__)
                forever |= {value} if given_out else set()
    dead: dict[str, list[Value]] = {}
    for value, reader in last_read.items():
        if value not in forever:
            dead.setdefault(reader, []).append(value)
    lines = [
        _line(n, graph.nodes[n], wires[n], tuple(dead.get(n, ())), untils.get(n, ""))
        for n in graph.nodes if n in runs
    ]  # fmt: skip
    return RunOrder(tuple(lines), finals)


def _line(name: str, outer: Block, wires: list[tuple[str, Value]], dead: tuple[Value, ...], until: str) -> Line:
    block, outside = without_names(outer)
    own = block.signature
    inner = {new: old for old, new in outside.inputs.items()}
    args = [(inner.get(port, port), value) for port, value in wires]
    container = block if isinstance(block, Container) else None
    ports = ports_of(type(block)) if container is None else None
    knobs = ports.knobs if ports else ()
    fields = tuple(ports.components) if ports else ()
    return Line(
        name, block,
        args=tuple((p, v) for p, v in args if p not in knobs),
        knobs=tuple((p, v) for p, v in args if p in knobs),
        outputs=tuple((name, outside.outputs[o]) for o in own.outputs),
        output_names=tuple(own.outputs),
        components=tuple((f, outside.components[f]) for f in fields if f in own.components),
        names=outside.components if container is not None else {}, container=container,
        insides=tuple(container.insides()) if container is not None else (),
        memory=tuple(own.memory), running=own.running, returns=ports.returns if ports else None, dead=dead,
        makes_function=any(map(gives_function, own.outputs.values())), until=until,
    )  # fmt: skip


def _spans(order: RunOrder) -> dict[str, Span]:
    place = {line.name: i for i, line in enumerate(order.lines)}
    spans: dict[str, Span] = {}
    begin = 0
    while begin < len(order.lines):
        at, last, lasting = begin, begin, False
        while at <= last:
            line = order.lines[at]
            if line.makes_function:
                lasting = lasting or line.until not in place
                last = max(last, place.get(line.until, len(order.lines) - 1))
            at += 1
        lines = order.lines[begin : last + 1]
        if any(line.components or line.insides for line in lines):
            span = Span(lines, last, lasting, len(lines) > 1 or lasting or _is_whole(order.lines[begin]))
            spans |= dict.fromkeys((line.name for line in lines), span)
        begin = last + 1
    return spans


def _is_whole(line: Line) -> bool:
    """Whether one line is leased as one: a block, or a loop whose turns call functions that are made before them."""
    if not line.insides:
        return True
    return any(inside.repeated and turn_orders(inside)[0].makes_function for inside in line.insides)


def unbound(graph: Structure, outputs: tuple[str, ...]) -> dict[str, list[str]]:
    """Required components that a run for these outputs needs and that are not bound, with the nodes that need them."""
    missing: dict[str, list[str]] = {}
    for name, node in _needed(graph, outputs, required=True):
        if name not in graph.bindings:
            missing.setdefault(name, []).append(node)
    return missing


def needed(graph: Structure, outputs: tuple[str, ...]) -> dict[str, Any]:
    """The bindings of the components that a run for these outputs uses."""
    names = {name for name, _ in _needed(graph, outputs, required=False)}
    return {name: value for name, value in graph.bindings.items() if name in names}


def _needed(graph: Structure, outputs: tuple[str, ...], *, required: bool) -> list[tuple[str, str]]:
    return [
        (name, line.name)
        for line in run_order(graph, outputs).lines
        for name, part in graph.nodes[line.name].signature.components.items()
        if part.required or not required
    ]
