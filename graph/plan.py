"""What to do, in order, to get some outputs of a graph: made once per graph and set of outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_origin

from .analysis import wanted
from .block import Block, ports_of
from .paths import renamed
from .ports import Output
from .typing import union_members, untagged
from .wiring import INPUTS, last_givers

if TYPE_CHECKING:
    from .graph import Graph

Value = tuple[str, str]  # node, port


@dataclass(frozen=True, slots=True)
class Line:
    """One node as the runner sees it: renamings undone, wires resolved, and what nobody reads after it."""

    name: str
    block: Block
    args: tuple[tuple[str, Value], ...]  # parameter of the block, where its value stands
    knobs: tuple[tuple[str, Value], ...]
    outs: tuple[Value, ...]  # in the order of the block's own outputs
    takes: tuple[str, ...]  # the block's own output names, in the same order
    needs: tuple[tuple[str, str], ...]  # component field, the name it is bound under
    names: Mapping[str, str]  # component name inside -> outside, for blocks that hold graphs
    memory: tuple[str, ...]
    running: str | None
    returns: type | None
    dead: tuple[Value, ...]
    makes_function: bool
    until: str  # of a function maker, the last node that its functions may be called by; "" where they are given out


@dataclass(frozen=True, slots=True)
class Plan:
    lines: tuple[Line, ...]
    outputs: tuple[tuple[str, Value], ...]
    known: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """What has been found out about it, by who found it."""

    @property
    def makes_function(self) -> bool:
        """Whether a node gives a function, which lives on the components that its maker holds."""
        return any(line.makes_function for line in self.lines)

    def split(self, varying: frozenset[str]) -> tuple["Plan", "Plan"]:
        """The nodes that depend on none of these inputs, and the rest: what a loop runs once, and every turn."""
        moving: set[Value] = {(INPUTS, name) for name in varying}
        once: list[Line] = []
        each: list[Line] = []
        for line in self.lines:
            reads = [value for _, value in (*line.args, *line.knobs)]
            if line.memory or not line.outs or any(v in moving for v in reads) or _remembers(line.block):
                each.append(line)
                moving.update(line.outs)
            else:
                once.append(line)
        read_later = {v for line in each for _, v in (*line.args, *line.knobs)} | {v for _, v in self.outputs}
        kept = {value for line in once for value in line.outs} & read_later

        def without_kept(lines: list[Line]) -> tuple[Line, ...]:
            return tuple(_replace_dead(line, tuple(v for v in line.dead if v not in kept)) for line in lines)

        return Plan(without_kept(once), tuple((f"{n}.{p}", (n, p)) for n, p in kept)), Plan(
            without_kept(each), self.outputs
        )


def _replace_dead(line: Line, dead: tuple[Value, ...]) -> Line:
    from dataclasses import replace

    return replace(line, dead=dead)


def _remembers(block: Block) -> bool:
    """Whether some node inside carries memory of the loop around (not of a loop within)."""
    from .loop import Loop

    if isinstance(block, Loop):
        return False
    inside = block.children()
    return any(map(_remembers, inside.values())) if inside else bool(block.signature.memory)


def gives_function(output: Output) -> bool:
    """Whether an output is a function, which lives on what its maker has read."""
    return any(get_origin(untagged(arm)) is get_origin(Callable[[], None]) for arm in union_members(output.type))


def turn_plans(body: "Graph", each: str, carry: tuple[str, ...]) -> tuple[Plan, Plan]:
    """What a loop runs once and what it runs every turn, from the body's own cache."""
    plans: dict[Any, tuple[Plan, Plan]] = body.__dict__.setdefault("_turns", {})
    if (each, carry) not in plans:
        plans[each, carry] = plan_of(body, carry).split(frozenset((each, *carry)))
    return plans[each, carry]


def plan_of(graph: "Graph", outputs: tuple[str, ...]) -> Plan:
    """The plan for these outputs, from the graph's own cache. Work that nobody reads is left out."""
    plans: dict[tuple[str, ...], Plan] = graph.__dict__.setdefault("_plans", {})
    if outputs not in plans:
        plans[outputs] = _make(graph, outputs)
    return plans[outputs]


def _make(graph: "Graph", outputs: tuple[str, ...]) -> Plan:
    last = last_givers(graph.nodes)
    runs = wanted(graph.nodes, graph.edges, outputs)
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
    return Plan(tuple(lines), finals)


def _line(name: str, outer: Block, wires: list[tuple[str, Value]], dead: tuple[Value, ...], until: str) -> Line:
    block, outside = renamed(outer)
    own = block.signature
    inside = {new: old for old, new in outside.inputs.items()}
    args = [(inside.get(port, port), value) for port, value in wires]
    leaf = not block.children()
    ports = ports_of(type(block)) if leaf else None
    knobs = ports.knobs if ports else ()
    fields = tuple(ports.components) if ports else ()
    return Line(
        name, block,
        args=tuple((p, v) for p, v in args if p not in knobs),
        knobs=tuple((p, v) for p, v in args if p in knobs),
        outs=tuple((name, outside.outputs[o]) for o in own.outputs),
        takes=tuple(own.outputs),
        needs=tuple((f, outside.components[f]) for f in fields if f in own.components),
        names={} if leaf else outside.components,
        memory=tuple(own.memory), running=own.running, returns=ports.returns if ports else None, dead=dead,
        makes_function=any(map(gives_function, own.outputs.values())), until=until,
    )  # fmt: skip


def unbound(graph: "Graph", outputs: tuple[str, ...], bound: Mapping[str, Any]) -> dict[str, list[str]]:
    """Required components that a run for these outputs would need and nothing is bound to, with who needs them."""
    missing: dict[str, list[str]] = {}
    for name, node in _needed(graph, outputs, bound, required=True):
        missing.setdefault(name, []).append(node)
    return missing


def needed(graph: "Graph", outputs: tuple[str, ...]) -> dict[str, Any]:
    """What is bound to the components that a run for these outputs uses."""
    names = {name for name, _ in _needed(graph, outputs, {}, required=False)}
    return {name: value for name, value in graph.bindings.items() if name in names}


def _needed(
    graph: "Graph", outputs: tuple[str, ...], bound: Mapping[str, Any], *, required: bool
) -> list[tuple[str, str]]:
    parts = {line.name: graph.nodes[line.name].signature.components for line in plan_of(graph, outputs).lines}
    return [
        (name, node)
        for node, components in parts.items()
        for name, part in components.items()
        if name not in bound and (part.required or not required)
    ]
