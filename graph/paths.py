"""Paths into nested graphs: "denoise.guider" is the node `guider` of the graph inside `denoise`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from .block import Block
from .errors import Problem, WireError
from .wiring import no_node

if TYPE_CHECKING:
    from .graph import Graph

G = TypeVar("G", bound=Block)


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
            raise WireError(_no_child(part, at, done))
        done.append(part)
        at = children[part]
    return at


def edit_at(block: G, path: str, edit: "Callable[[Graph, str], Graph]") -> G:
    """The same block with `edit(graph, node)` done in the graph that holds the last node of `path`."""
    return cast(G, _edit(block, path.split("."), edit, []))


def _edit(block: Block, path: list[str], edit: "Callable[[Graph, str], Graph]", done: list[str]) -> Block:
    from .graph import Graph

    children = block.children()
    if isinstance(block, Graph) and len(path) == 1:
        try:
            return edit(block, path[0])
        except WireError as error:
            raise WireError(_placed(error, done)) from None
    head, *rest = path
    if "" in children:
        head, rest = "", path
    elif head not in children or not rest:
        raise WireError(_no_child(head, children.get(head, block), done))
    new = _edit(children[head], rest, edit, [*done, head] if head else done)
    try:
        return block.with_children({**children, head: new})
    except WireError as error:
        raise WireError(_placed(error, done)) from None


def _no_child(name: str, block: Block, done: list[str]) -> Problem:
    place = ".".join([*done, name])
    if block.children():
        return no_node(name, block.children(), place)
    text = f"no such node: {'.'.join(done)} is {type(block).__name__}, which holds no blocks."
    return Problem("no-node", place, text)


def _placed(error: WireError, done: list[str]) -> list[Problem]:
    """The problems of an inner graph, named from outside."""
    if not done:
        return list(error.problems)
    head = ".".join(done)
    return [Problem(p.code, f"{head}.{p.place}", p.message, p.got, p.needed, p.candidates) for p in error.problems]


def leaves(block: Block, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Block]]:
    """Every block inside that holds no graph, with its path; renamed blocks as what they are inside."""
    children = block.children()
    if not children:
        yield path, block
    for name, child in children.items():
        yield from leaves(child, (*path, name) if name else path)


@dataclass(frozen=True)
class Outside:
    """How the ports and components of a renamed block are called outside, by what they are called inside."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    components: Mapping[str, str]


def renamed(block: Block) -> tuple[Block, Outside]:
    """A block without its renamings, and its names outside. An input and an output may go by one name there."""
    from .named import Named

    layers: list[dict[str, str]] = []
    while isinstance(block, Named):
        layers.insert(0, dict(block.names))
        block = block.block

    def outside(names: Iterable[str]) -> dict[str, str]:
        found = {name: name for name in names}
        for layer in layers:
            found = {old: layer.get(new, new) for old, new in found.items()}
        return found

    s = block.signature
    return block, Outside(outside(s.inputs), outside(s.outputs), outside(s.components))


def unwrapped(block: Block) -> tuple[Block, dict[str, str]]:
    """A block without its renamings, and its old names by the new ones, outputs before inputs."""
    block, names = renamed(block)
    return block, {new: old for side in (names.outputs, names.inputs, names.components) for old, new in side.items()}
