"""The rewrites that a call makes: each takes the graph and the call, and gives the graph that the call needs.

What a rewrite makes is kept on the graph, so that the same call costs a look-up the next time.
"""

from collections.abc import Callable
from dataclasses import replace

from .analysis import sole_makers
from .cache import cached
from .edits import edited
from .keywords import Call
from .plan import plan_of
from .simplify import with_simpler_blocks
from .structure import Structure
from .swaps import overlay
from .wiring import INPUTS, last_givers

Rewrite = Callable[[Structure, Call], Structure]


def swap(graph: Structure, call: Call) -> Structure:
    """Swap the components and slots that the call passes."""
    return overlay(graph, call.swaps)


def use_values(graph: Structure, call: Call) -> Structure:
    """Take out nodes whose outputs the call passes: `latents=`, `positive=`."""
    makers = sole_makers(graph)
    names = tuple(name for name in call.values if name not in graph.inputs and name in makers)
    return cached(graph, "without makers", lambda: _without_makers(graph, names), names) if names else graph


def _without_makers(graph: Structure, names: tuple[str, ...]) -> Structure:
    makers = sole_makers(graph)
    gone = {makers[name] for name in names}
    pinned = [
        replace(e, giver=INPUTS) if e.giver in gone else e
        for e in graph.pinned if e.taker not in gone and (e.giver not in gone or e.output in names)
    ]  # fmt: skip
    nodes = {n: b for n, b in graph.nodes.items() if n not in gone}
    left = last_givers(nodes)
    declared = tuple(n for n in graph.declared if n in left)
    return edited(graph, nodes=nodes, pinned=pinned, slots={}, declared=declared)


def prune(graph: Structure, call: Call) -> Structure:
    """Take out work that nobody reads, so that the graph needs no more than the run uses."""
    return pruned(graph)


def pruned(graph: Structure) -> Structure:
    """The graph without work that nobody reads."""
    smaller = cached(graph, "pruned", lambda: _pruned(graph))
    return graph if smaller is None else smaller


def _pruned(graph: Structure) -> Structure | None:  # None: all runs, and nothing is to be kept
    runs = {line.name for line in plan_of(graph, graph.wanted).lines}
    if len(runs) == len(graph.nodes):
        return None
    nodes = {n: b for n, b in graph.nodes.items() if n in runs}
    return edited(graph, nodes=nodes, pinned=[e for e in graph.pinned if e.taker in runs], slots={})


def simplify(graph: Structure, call: Call) -> Structure:
    """Put simpler blocks where the call's values allow them."""
    return with_simpler_blocks(graph, call.values)
