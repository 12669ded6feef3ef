"""Simpler blocks for one call: an input that a block does not read with these values is not made.

A guider of scale 1 reads no negative prompt, so none is encoded. `Block.simplified` gives the block with fewer inputs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .block import Block
from .cache import cached
from .edits import replaced
from .named import named_like
from .paths import blocks_inside, without_names
from .structure import Container, Structure
from .wiring import INPUTS

_UNKNOWN: Any = object()
"""A value that a node makes: it is known only while running."""


def with_simpler_blocks(graph: Structure, values: Mapping[str, Any]) -> Structure:
    """The graph with simpler blocks where these inputs allow them; itself where they allow none."""
    if not cached(graph, "may be simplified", lambda: any(map(_may_be_simpler, dict(blocks_inside(graph)).values()))):
        return graph
    swaps = tuple(_simpler_blocks(graph, values))

    def make() -> Structure:
        made = graph
        for path, block in swaps:
            made = replaced(made, ".".join(path), block)
        return made

    return cached(graph, "simplified", make, swaps) if swaps else graph


def _may_be_simpler(block: Block) -> bool:
    return type(block).simplified is not Block.simplified


def _simpler_blocks(
    graph: Structure, values: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Block]]:
    """The blocks that these values simplify, by path, and the simpler block."""
    for name, outer in graph.nodes.items():
        block, outside = without_names(outer)
        inner = {new: old for old, new in outside.inputs.items()}
        passed = {
            inner[e.input]: values.get(e.output) if e.giver == INPUTS else _UNKNOWN
            for e in graph.edges if e.taker == name and (e.giver != INPUTS or e.output in values)
        }  # fmt: skip
        if isinstance(block, Container):
            for inside in block.insides():
                varying = dict.fromkeys(inside.varying, _UNKNOWN)
                part = (inside.part,) if inside.part else ()
                yield from _simpler_blocks(inside.graph, {**passed, **varying}, (*path, name, *part))
        elif _may_be_simpler(block):
            known = {knob: passed[knob] for knob in block.config() if knob in passed}
            if _UNKNOWN not in known.values() and (simpler := block.filled(known).simplified()) is not None:
                yield (*path, name), named_like(outer, simpler)
