"""Blocks that do less: what a block does not read with the values of a call is not made for that call.

A guider of scale 1 reads no negative prompt, so none is encoded. The block says so itself: `Block.simplified` gives the
block that does the same with less.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .block import Block
from .graph import Graph
from .loop import Loop
from .named import like
from .paths import leaves, renamed
from .wiring import INPUTS

_MADE: Any = object()
"""Stands for a value that a node makes: it is known only while running."""


def simplified(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """The graph with simpler blocks where these inputs allow them; itself where none does."""
    if "_may_simplify" not in graph.__dict__:
        graph.__dict__["_may_simplify"] = any(type(b).simplified is not Block.simplified for _, b in leaves(graph))
    if not graph.__dict__["_may_simplify"]:
        return graph
    swaps = tuple(_simplified(graph, values))
    cache: dict[Any, Graph] = graph.__dict__.setdefault("_simplified", {})
    if swaps not in cache:
        made = graph
        for path, block in swaps:
            made = made.replace(".".join(path), block)
        cache[swaps] = made
    return cache[swaps]


def _simplified(graph: Graph, values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Block]]:
    """The blocks that these values simplify, by path, and the simpler block."""
    for name, outer in graph.nodes.items():
        block, outside = renamed(outer)
        inside = {new: old for old, new in outside.inputs.items()}
        given = {
            inside[e.input]: values.get(e.output) if e.giver == INPUTS else _MADE
            for e in graph.edges if e.taker == name and (e.giver != INPUTS or e.output in values)
        }  # fmt: skip
        if isinstance(block, Loop):
            turning = dict.fromkeys((block.each, *block.carry), _MADE)
            yield from _simplified(block.body, {**given, **turning}, (*path, name))
        elif isinstance(block, Graph):
            yield from _simplified(block, given, (*path, name))
        elif type(block).simplified is not Block.simplified:
            known = {knob: given[knob] for knob in block.config() if knob in given}
            if _MADE not in known.values() and (less := block.with_(**known).simplified()) is not None:
                yield (*path, name), like(outer, less)
