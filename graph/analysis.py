"""Facts that follow from the edges: ancestors, the nodes that run, the networkx form."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .block import Block
from .cache import cached
from .structure import Structure
from .wiring import INPUTS, Edge, last_givers

if TYPE_CHECKING:
    import networkx as nx


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


def nodes_to_run(nodes: Mapping[str, Block], edges: Sequence[Edge], outputs: Iterable[str]) -> set[str]:
    """The nodes that run: those without outputs, which run for their effect, and those that they and `outputs` need."""
    effects = [name for name, block in nodes.items() if not block.signature.outputs]
    kept = ancestors(nodes, edges, outputs)
    for e in reversed(edges):  # edges stand in the order of their takers, so one sweep backwards suffices
        if e.giver != INPUTS and (e.taker in kept or e.taker in effects):
            kept.add(e.giver)
    return kept | set(effects)


def sole_makers(graph: Structure) -> Mapping[str, str]:
    """Output names that exactly one node makes (gives without taking), and that node.

    A call may pass such a value itself; then the node does not run.
    """
    return cached(graph, "sole makers", lambda: _sole_makers(graph.nodes))


def _sole_makers(nodes: Mapping[str, Block]) -> Mapping[str, str]:
    makers: dict[str, list[str]] = {}
    for node, block in nodes.items():
        for name in block.signature.outputs:
            if name not in block.signature.inputs:
                makers.setdefault(name, []).append(node)
    return {name: nodes[0] for name, nodes in makers.items() if len(nodes) == 1}


def digraph(graph: Structure) -> "nx.MultiDiGraph[str]":
    """Nodes with their block as `block`, one edge for each wire with its `Edge` as `edge`."""
    import networkx as nx

    made: nx.MultiDiGraph[str] = nx.MultiDiGraph()
    made.add_node(INPUTS)
    for name, block in graph.nodes.items():
        made.add_node(name, block=block)
    for e in graph.edges:
        made.add_edge(e.giver, e.taker, key=e.input, edge=e)
    return made
