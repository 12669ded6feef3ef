"""The memory of the nodes in a loop as a value: another loop can go on with it."""

from collections.abc import Callable, Mapping
from typing import Any

from .paths import blocks_inside
from .structure import Structure

LoopMemory = Mapping[str, Mapping[str, Any]]
"""The memory of the nodes in a loop: for each path inside it, the values by port."""


def memory_below(prefix: str, memory: LoopMemory) -> LoopMemory:
    """The memory of the nodes whose paths begin with `prefix`, by the rest of their paths."""
    return {node.removeprefix(prefix): dict(values) for node, values in memory.items() if node.startswith(prefix)}


def placed_memory(
    prefix: str, graph: Structure, memory: LoopMemory, note: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The memory with whole paths. `note` is called for each node that the graph lacks, or that has other ports."""
    ports = {".".join(names): {*block.signature.memory} for names, block in blocks_inside(graph)}
    for node, values in memory.items():
        if ports.get(node) != {*values}:
            note(f"The memory of {node!r} is not used: no block at {prefix}{node} has {', '.join(values)}.")
    return {prefix + node: dict(values) for node, values in memory.items() if ports.get(node) == {*values}}
