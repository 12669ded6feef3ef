"""Paths into nested graphs: "denoise.guider" is the node `guider` of the graph inside `denoise`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from .block import Block
from .errors import Problem, WireError
from .named import Named
from .wiring import no_node


def block_at(block: Block, path: str) -> Block:
    """The block at a path. Raises `WireError` with the nearest names where there is none."""
    at = block
    done: list[str] = []
    for part in path.split("."):
        children = at.children()
        while "" in children:
            at = children[""]
            children = at.children()
        if part not in children:
            raise WireError(no_child(part, at, done))
        done.append(part)
        at = children[part]
    return at


def no_child(name: str, block: Block, done: list[str]) -> Problem:
    """The problem of a path that goes on with `name` after `done`, where `block` is."""
    place = ".".join([*done, name])
    if block.children():
        return no_node(name, block.children(), place)
    text = f"no such node: {'.'.join(done)} is {type(block).__name__}, which holds no blocks."
    return Problem("no-node", place, text)


def blocks_inside(block: Block, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Block]]:
    """Every block that holds no other, with its path; renamed blocks without their names."""
    children = block.children()
    if not children:
        yield path, block
    for name, child in children.items():
        yield from blocks_inside(child, (*path, name) if name else path)


@dataclass(frozen=True)
class OuterNames:
    """The names of a block's ports and components outside, by their names inside."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    components: Mapping[str, str]


def without_names(block: Block) -> tuple[Block, OuterNames]:
    """A block without its renamings, and its names outside. An input and an output may have one name there."""
    layers: list[dict[str, str]] = []
    while isinstance(block, Named):
        layers.insert(0, dict(block.names))
        block = block.block

    def outside(names: Iterable[str]) -> dict[str, str]:
        current = {name: name for name in names}
        for layer in layers:
            current = {old: layer.get(new, new) for old, new in current.items()}
        return current

    s = block.signature
    return block, OuterNames(outside(s.inputs), outside(s.outputs), outside(s.components))
