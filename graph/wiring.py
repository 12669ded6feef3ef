"""The one wiring rule, and the problems of the edges that it makes.

An input takes its value from the nearest earlier block that gives an output of that name; where none does, it is an
input of the graph. Edges that follow from this are *ruled*; edges that somebody chose are *pinned*.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..registry import closest, did_you_mean
from .block import Block
from .errors import Problem
from .ports import REQUIRED, VARIES, Component, Input, Output, Signature
from .typing import assignable, meet, port_of, type_text, untagged

INPUTS = "inputs"
"""The node name of a graph's own inputs in its edges."""

RESERVED = frozenset({INPUTS, "outputs", "slots", "self", "body"})


@dataclass(frozen=True, order=True)
class Edge:
    """`taker.input` takes its value from `giver.output`; a giver "inputs" is the graph's own input."""

    giver: str
    output: str
    taker: str
    input: str
    pinned: bool = False

    @property
    def source(self) -> str:
        """`"node.output"`."""
        return f"{self.giver}.{self.output}"

    @property
    def target(self) -> str:
        """`"node.input"`."""
        return f"{self.taker}.{self.input}"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}{' (pinned)' if self.pinned else ''}"


def rule(nodes: Mapping[str, Block], pinned: Iterable[Edge] = ()) -> tuple[Edge, ...]:
    """All edges of these nodes: the pinned ones as they are, every other input by the wiring rule."""
    fixed = {(e.taker, e.input): e for e in pinned}
    giver: dict[str, str] = {}
    edges: list[Edge] = []
    for name, node in nodes.items():
        s = node.signature
        edges += [fixed.get((name, port)) or Edge(giver.get(port, INPUTS), port, name, port) for port in s.inputs]
        giver.update(dict.fromkeys(s.outputs, name))
    return tuple(edges)


def signature_of(nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Sequence[str]) -> Signature:
    """The graph as a block: its inputs are those that no node gives, its outputs the last of each declared name."""
    readers: dict[str, list[Input]] = {}
    signatures = {name: node.signature for name, node in nodes.items()}
    for e in edges:
        if e.giver == INPUTS:
            readers.setdefault(e.output, []).append(signatures[e.taker].inputs[e.input])
    last = {port: out for s in signatures.values() for port, out in s.outputs.items()}
    wanted = {name: last[name] for name in outputs if name in last} if outputs else last
    return Signature({name: joint(ports) for name, ports in readers.items()}, wanted, parts_of(signatures.values()))


def parts_of(signatures: Iterable[Signature]) -> dict[str, Component]:
    """The components of several blocks: of one name the narrowest class, required if one of them requires it."""
    parts: dict[str, Component] = {}
    for s in signatures:
        for name, part in s.components.items():
            old = parts.get(name)
            both = part.type if old is None else meet(old.type, part.type) or old.type
            parts[name] = Component(both, part.required or (old is not None and old.required))
    return parts


def joint(ports: Sequence[Input]) -> Input:
    """One input for all its readers: the narrowest type, required if one needs it, a default if they agree on one."""
    kind: Any = ports[0].type
    for port in ports[1:]:
        kind = meet(kind, port.type) or kind
    defaults = [p.default for p in ports]
    if any(d is REQUIRED for d in defaults):
        return Input(kind, REQUIRED)
    first = defaults[0]
    same = all(d is first or (type(d) is type(first) and bool(d == first)) for d in defaults[1:])
    return Input(kind, first if same else VARIES)


def last_givers(nodes: Mapping[str, Block]) -> dict[str, str]:
    """For each output name, the node that gives its final value."""
    return {port: name for name, node in nodes.items() for port in node.signature.outputs}


def wire_problems(nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Sequence[str]) -> list[Problem]:
    """The problems of these wires; nodes must be blocks."""
    problems = [*_pins(nodes, edges)]
    if problems:
        return problems
    signatures = {name: node.signature for name, node in nodes.items()}
    problems += _types(signatures, edges)
    problems += _readers(signatures, edges)
    problems += component_problems(signatures)
    last = last_givers(nodes)
    problems += [
        Problem(
            "no-output", name, f"is declared as an output, but no node gives it. {did_you_mean(name, last)}",
            got=name, candidates=tuple(closest(name, last)),
        )
        for name in outputs if name not in last
    ]  # fmt: skip
    return problems


def no_node(name: str, nodes: Iterable[str], place: str = "") -> Problem:
    """The problem of an unknown node name."""
    nodes = list(nodes)
    text = f"no such node. {did_you_mean(name, nodes)}"
    return Problem("no-node", place or name, text, name, candidates=tuple(closest(name, nodes)))


def _pins(nodes: Mapping[str, Block], edges: Sequence[Edge]) -> list[Problem]:
    order = {name: i for i, name in enumerate(nodes)}
    problems: list[Problem] = []
    for e in edges:
        if e.taker not in nodes or (e.giver not in nodes and e.giver != INPUTS):
            problems.append(no_node(e.taker if e.taker not in nodes else e.giver, nodes, f"{e.target} <- {e.source}"))
        elif e.input not in (takes := nodes[e.taker].signature.inputs):
            text = f"is wired from {e.source}, but {e.taker} has no input {e.input!r}. {did_you_mean(e.input, takes)}"
            problems.append(Problem("no-input", e.target, text, e.input, candidates=tuple(closest(e.input, takes))))
        elif e.giver != INPUTS and e.output not in (gives := nodes[e.giver].signature.outputs):
            text = f"is wired from {e.source}, but {e.giver} gives no {e.output!r}. {did_you_mean(e.output, gives)}"
            problems.append(Problem("no-output", e.target, text, e.output, candidates=tuple(closest(e.output, gives))))
        elif e.giver != INPUTS and order[e.giver] >= order[e.taker]:
            way = f"Move {e.giver!r} before {e.taker!r}, or carry the value in a Loop."
            text = f"is wired from {e.source}, which comes later. {way}"
            problems.append(Problem("backward", e.target, text, e.source))
    return problems


def _types(signatures: Mapping[str, Signature], edges: Sequence[Edge]) -> list[Problem]:
    problems: list[Problem] = []
    for e in edges:
        if e.giver == INPUTS:
            continue
        have, want = signatures[e.giver].outputs[e.output].type, signatures[e.taker].inputs[e.input].type
        if not assignable(have, want):
            port = "" if e.output == e.input else f" as {e.output!r}"
            text = f"takes {type_text(want)}, but {e.giver} gives {type_text(have)}{port}. {_way_out(have, want, e)}"
            problems.append(Problem("type", e.target, text, type_text(have), type_text(want)))
    return problems


def _way_out(have: Any, want: Any, e: Edge) -> str:
    a, b = port_of(have), port_of(want)
    if a and b and a.kind == b.kind and a.space != b.space:
        return "Insert a decode and an encode between them, or use components of one latent space."
    if b and not a and assignable(have, untagged(want)):
        return f"If it is one, say so where it is made: {e.output}: {type_text(want)}."
    return (
        f"Put a block that makes {type_text(want)} between them, or wire another source: "
        f"graph.wire({e.target!r}, 'node.output')."
    )


def _readers(signatures: Mapping[str, Signature], edges: Sequence[Edge]) -> list[Problem]:
    """Readers of one graph input that no single value can satisfy."""
    readers: dict[str, list[Edge]] = {}
    for e in edges:
        if e.giver == INPUTS:
            readers.setdefault(e.output, []).append(e)
    problems: list[Problem] = []
    for name, taking in readers.items():
        kind = signatures[taking[0].taker].inputs[taking[0].input].type
        for e in taking[1:]:
            more = signatures[e.taker].inputs[e.input].type
            both = meet(kind, more)
            if both is None:
                first = taking[0].target
                have, want = type_text(more), type_text(kind)
                text = (
                    f"no value fits all its readers: {first} takes {want}, {e.target} takes {have}. "
                    f"Rename one: named(block, {e.input}='…')."
                )
                problems.append(Problem("readers", f"{INPUTS}.{name}", text, have, want))
                break
            kind = both
    return problems


def component_problems(signatures: Mapping[str, Signature]) -> list[Problem]:
    """Components of one name whose classes do not meet."""
    problems: list[Problem] = []
    seen: dict[str, tuple[str, Any]] = {}
    for node, s in signatures.items():
        for name, part in s.components.items():
            first, kind = seen.setdefault(name, (node, part.type))
            if (both := meet(kind, part.type)) is None:
                text = (
                    f"is {type_text(kind)} in {first}, but {type_text(part.type)} in {node}. "
                    f"Rename one: named(block, {name}='{name}_2')."
                )
                problems.append(Problem("component", name, text, type_text(part.type), type_text(kind)))
            else:
                seen[name] = (first, both)
    return problems


def misplaced(
    nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Sequence[str],
    *, keyword: str = "outputs", beside: Sequence[str] = (),
) -> list[Problem]:  # fmt: skip
    """Blocks whose outputs have no reader, and outputs that another block replaces before they have one.

    `outputs` are the declared ones; without any, every final value counts as read. The texts show the `keyword` that
    makes something an output, with the names that it must have `beside` the new one.
    """
    read = {(e.giver, e.output) for e in edges}
    last = last_givers(nodes)
    final = {(last[n], n) for n in (outputs or last) if n in last}
    problems: list[Problem] = []
    for node, block in nodes.items():
        gives: Mapping[str, Output] = block.signature.outputs
        unread = [port for port in gives if (node, port) not in read and (node, port) not in final]
        if gives and len(unread) == len(gives):
            way = _placing(node, unread, nodes, last, f"{keyword}={(*beside, unread[0])!r}")
            text = f"no block reads its outputs ({', '.join(gives)}). {way}"
            problems.append(Problem("unread", node, text, candidates=tuple(unread)))
        else:
            problems += [
                Problem(
                    "shadowed", f"{node}.{port}",
                    f"{last[port]} replaces it before any block reads it. Put a reader between them, or rename "
                    f"one: named(block, {port}='…').",
                )
                for port in unread if last[port] != node
            ]  # fmt: skip
    return problems


def caused_by(
    touched: set[str], problems: Sequence[Problem], old: Sequence[Problem], last: Mapping[str, str]
) -> list[Problem]:
    """Those of these misplaced blocks that an edit of the `touched` nodes causes.

    Such a block is touched itself, or a touched one replaces its output. A block that loses its reader is no problem:
    swapping a block may do that. `old` are the problems before the edit, `last` the last givers of each output.
    """
    was = {(p.code, p.place) for p in old}
    caused: list[Problem] = []
    for p in problems:
        node, _, port = p.place.partition(".")
        replaced_by = {last[n] for n in ([port] if port else p.candidates)} - {node}
        if node in touched or (replaced_by & touched and (p.code, p.place) not in was):
            caused.append(p)
    return caused


def _placing(node: str, ports: Sequence[str], nodes: Mapping[str, Block], last: Mapping[str, str], line: str) -> str:
    names = list(nodes)
    earlier = [n for n in names[: names.index(node)] for p in ports if p in nodes[n].signature.inputs]
    if earlier:
        port = next(p for p in ports if p in nodes[earlier[0]].signature.inputs)
        return f"{earlier[0]} takes {port!r}: insert it before {earlier[0]!r}."
    if (port := next((p for p in ports if last[p] != node), None)) is not None:
        way = f"Put it before a block that takes one, or rename its output: named(block, {port}='{node}_{port}')."
        return f"{last[port]} replaces {port!r} before any block reads it. {way}"
    return f"Put it before a block that takes one, or make it an output: {line}."
