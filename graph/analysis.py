"""What can be read off the edges: ancestors, readers, the networkx form."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .block import Block
from .wiring import INPUTS, Edge, last_givers

if TYPE_CHECKING:
    import networkx as nx

    from .graph import Graph


def ancestors(nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Iterable[str]) -> set[str]:
    """The nodes that these outputs need."""
    needs: dict[str, list[str]] = {}
    for e in edges:
        if e.giver != INPUTS:
            needs.setdefault(e.taker, []).append(e.giver)
    last = last_givers(nodes)
    kept: set[str] = set()
    todo = [last[name] for name in outputs]
    while todo:
        if (node := todo.pop()) not in kept:
            kept.add(node)
            todo += needs.get(node, ())
    return kept


def wanted(nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Iterable[str]) -> set[str]:
    """The nodes that run: those the outputs need, those that are there for their effect, and what these need."""
    effects = [name for name, block in nodes.items() if not block.signature.outputs]
    kept = ancestors(nodes, edges, outputs)
    for e in reversed(edges):  # edges stand in the order of their takers, so one sweep backwards suffices
        if e.giver != INPUTS and (e.taker in kept or e.taker in effects):
            kept.add(e.giver)
    return kept | set(effects)


def digraph(graph: "Graph") -> "nx.MultiDiGraph[str]":
    """Nodes with their block as `block`, one edge for each wire with its `Edge` as `edge`."""
    import networkx as nx

    made: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    made.add_node(INPUTS)
    for name, block in graph.nodes.items():
        made.add_node(name, block=block)
    for e in graph.edges:
        made.add_edge(e.giver, e.taker, key=e.input, edge=e)
    return made
