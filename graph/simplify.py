"""Simpler blocks for one call: an input that a block does not read with these values is not made.

A guider of scale 1 reads no negative prompt, so none is encoded. `Block.simplified` gives the block with fewer inputs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from .block import Block
from .cache import cached
from .edits import replaced
from .knobs import UNKNOWN, with_knobs
from .named import named_like
from .structure import Structure


def with_simpler_blocks(graph: Structure, values: Mapping[str, Any]) -> Structure:
    """The graph with simpler blocks where these inputs allow them; itself where they allow none."""
    swaps = tuple(_simpler_blocks(graph, values))

    def make() -> Structure:
        made = graph
        for path, block in swaps:
            made = replaced(made, path, block)
        return made

    return cached(graph, "simplified", make, swaps) if swaps else graph


def _may_be_simpler(block: Block) -> bool:
    return type(block).simplified is not Block.simplified


def _simpler_blocks(graph: Structure, values: Mapping[str, Any]) -> Iterator[tuple[str, Block]]:
    """The blocks that these values simplify, by path, and the simpler block."""
    for path, outer, block, knobs in with_knobs(graph, values, _may_be_simpler):
        if UNKNOWN not in knobs.values():
            simpler = block.filled(knobs).simplified()
            if simpler is not None:
                yield path, named_like(outer, simpler)
