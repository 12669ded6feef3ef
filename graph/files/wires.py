"""The edges of a file against the nodes: every one is checked, and ruled ones must be what the rule gives."""

from collections.abc import Iterator, Mapping, Sequence

from ...registry import did_you_mean
from ..block import Block
from ..errors import Problem
from ..wiring import INPUTS, Edge, rule
from .shape import EdgeForm


def edges_of(forms: Sequence[EdgeForm], nodes: Mapping[str, Block], at: str) -> tuple[tuple[Edge, ...], list[Problem]]:
    """The edges of a graph by its file, and what is wrong with them; no edges where something is."""
    given = [(f"{at}.edges[{i}]", _edge(form)) for i, form in enumerate(forms)]
    found = [p for place, edge in given for p in _unknown(place, edge, nodes)]
    seen: dict[str, str] = {}
    for place, edge in given:
        if (first := seen.setdefault(edge.target, place)) != place:
            found.append(_problem(place, f"is a second edge into {edge.target}; {first} is the other. Keep one."))
    if found:
        return (), found
    ruled = rule(nodes, [edge for _, edge in given if edge.pinned])
    by_target = {edge.target: edge for edge in ruled}
    for place, edge in given:
        right = by_target[edge.target]
        if edge != right:
            text = f"is marked ruled, but the wiring rule gives {edge.target} {right.source}, not {edge.source}."
            found.append(_problem(place, f'{text} Write "how": "pinned" to keep it so, or correct "from".'))
    for edge in ruled:
        if edge.target not in seen:
            add = f'{{"from": "{edge.source}", "to": "{edge.target}", "how": "ruled"}}'
            found.append(
                _problem(f"{at}.edges", f"no edge leads to {edge.target}. The wiring rule gives {add}: add it.")
            )
    return ruled if not found else (), found


def _edge(form: EdgeForm) -> Edge:
    giver, _, output = form.source.partition(".")
    taker, _, port = form.target.partition(".")
    return Edge(giver, output, taker, port, form.how == "pinned")


def _unknown(place: str, edge: Edge, nodes: Mapping[str, Block]) -> Iterator[Problem]:
    ends = [("to", edge.taker, edge.input), ("from", edge.giver, edge.output)]
    for side, node, port in ends:
        if side == "from" and node == INPUTS:
            continue
        if node not in nodes:
            yield _problem(place, f'"{side}" names the node {node!r}, which is not here. {did_you_mean(node, nodes)}')
            continue
        signature = nodes[node].signature
        ports, verb = (signature.inputs, "takes") if side == "to" else (signature.outputs, "gives")
        if port not in ports:
            yield _problem(
                place, f'"{side}" names {node}.{port}, but {node} {verb} no {port!r}. {did_you_mean(port, ports)}'
            )


def _problem(place: str, text: str) -> Problem:
    return Problem("edge", place, text)
