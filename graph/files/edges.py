"""Checking the edges of a file: each joins known ports, and a ruled one is the one that the wiring rule makes."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from ...registry import did_you_mean
from ..block import Block
from ..errors import Problem
from ..limits import limit
from ..wiring import INPUTS, Edge, rule
from .forms import EdgeForm


def edges_of(forms: Sequence[EdgeForm], nodes: Mapping[str, Block], at: str) -> tuple[tuple[Edge, ...], list[Problem]]:
    """The edges of a graph, and problems. With a problem there are no edges."""
    placed = [(f"{at}.edges[{i}]", _edge(form)) for i, form in enumerate(forms)]
    # A suggestion for each of thousands would take minutes.
    found = list(islice((p for place, edge in placed for p in _unknown(place, edge, nodes)), limit("graph_problems")))
    seen: dict[str, str] = {}
    for place, edge in placed:
        if (first := seen.setdefault(edge.target, place)) != place:
            found.append(_problem(place, f"is a second edge into {edge.target}, beside {first}. Remove one."))
    if found:
        return (), found
    ruled = rule(nodes, [edge for _, edge in placed if edge.pinned])
    by_target = {edge.target: edge for edge in ruled}
    for place, edge in placed:
        right = by_target[edge.target]
        if edge != right:
            text = f"is marked ruled, but the wiring rule joins {edge.target} to {right.source}, not to {edge.source}."
            found.append(_problem(place, f'{text} Write "how": "pinned" to keep this edge, or correct "from".'))
    for edge in ruled:
        if edge.target not in seen:
            add = f'{{"from": "{edge.source}", "to": "{edge.target}", "how": "ruled"}}'
            found.append(_problem(f"{at}.edges", f"has no edge to {edge.target}. Add {add}."))
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
            yield _problem(place, f'"{side}" names {node!r}, which is no node. {did_you_mean(node, nodes)}')
            continue
        signature = nodes[node].signature
        ports, kind = (signature.inputs, "input") if side == "to" else (signature.outputs, "output")
        if port not in ports:
            yield _problem(
                place, f'"{side}" names {node}.{port}, but {node} has no {kind} {port!r}. {did_you_mean(port, ports)}'
            )


def _problem(place: str, text: str) -> Problem:
    return Problem("edge", place, text)
