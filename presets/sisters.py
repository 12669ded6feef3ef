"""Edits that go from one graph to another: swaps, settings, inserts and removals in a task's graph."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..graph import Block, Graph

Path = tuple[str, ...]
Nodes = Mapping[str, Block]


def with_edits(made: Graph, edited: Graph, plain: Graph) -> Graph:
    """The graph of a task with the edits that turned the graph of another task, `plain`, into `edited`.

    A block that both tasks have is taken from `edited`: a guider, a number of steps. Of a block whose settings differ
    between the tasks, only the settings that were changed are taken. A slot is swapped as a whole. An inserted node
    goes before the node that it was before, and a removed node is removed.
    """
    after, before = dict(_leaves(edited)), dict(_leaves(plain))
    for path, block in _leaves(made):
        source = path if path in before else _in_same_slot(path, made, before)
        if source in after and after[source] != before[source]:
            made = made.replace(".".join(path), _with_changes(block, after[source], before[source]))
    return _without_removed(_with_inserted(made, edited, plain), edited, plain)


def _without_removed(made: Graph, edited: Graph, plain: Graph) -> Graph:
    """The graph without the nodes that were removed. Last nodes go first, since a node goes before those it reads."""
    for path, after, before in reversed([*_common_graphs(edited, plain)]):
        for name in reversed([*before]):
            if name not in after and name in _nodes_at(made, path):
                made = made.remove(".".join((*path, name)))
    return made


def _with_inserted(made: Graph, edited: Graph, plain: Graph) -> Graph:
    """The graph with the nodes that were inserted.

    From the last to the first and from the inside out, since a node needs those that read it.
    """
    for path, after, before in reversed([*_common_graphs(edited, plain)]):
        names = list(after)
        for i, name in reversed([*enumerate(names)]):
            own = _nodes_at(made, path)
            if name in before or not own:  # or this task has no such graph
                continue
            if name in own:  # this task has a node of that name: a control net of the checkpoint
                made = made.replace(".".join((*path, name)), after[name])
                continue
            following = next((n for n in names[i + 1 :] if n in own), None)
            anchor = {"before": following} if following is not None else {"after": [*own][-1]}
            made = made.insert(name, after[name], **{side: ".".join((*path, n)) for side, n in anchor.items()})
    return made


def _nodes_at(block: Block, path: Path) -> Nodes:
    """The nodes of the graph at a path; {} where there is no graph."""
    for name in path:
        children = _unwrapped(block).children()
        if name not in children:
            return {}
        block = children[name]
    return _unwrapped(block).children()


def _common_graphs(edited: Block, plain: Block, path: Path = ()) -> Iterator[tuple[Path, Nodes, Nodes]]:
    """The graphs at the paths that both have, outermost first: the path, the nodes of each."""
    after, before = _unwrapped(edited).children(), _unwrapped(plain).children()
    if after and before:
        yield path, after, before
        for name in [n for n in after if n in before]:
            yield from _common_graphs(after[name], before[name], (*path, name))


def _leaves(block: Block, path: Path = ()) -> Iterator[tuple[Path, Block]]:
    """Every node that holds no graph, with its path; renamed blocks stay renamed."""
    inner = _unwrapped(block).children()
    if not inner:
        yield path, block
    for name, child in inner.items():
        yield from _leaves(child, (*path, name))


def _unwrapped(block: Block) -> Block:
    """The block inside a renamed block or a loop; any other block itself."""
    while "" in block.children():
        block = block.children()[""]
    return block


def _in_same_slot(path: Path, made: Graph, before: Mapping[Path, Block]) -> Path:
    """For a node that the other task lacks: a node that it has in the same slot; () for none."""
    slots = [[tuple(p.split(".")) for p in paths] for paths in made.slots.values()]
    return next((mate for paths in slots if path in paths for mate in paths if mate in before), ())


def _with_changes(own: Any, after: Any, before: Any) -> Any:  # Any: blocks, or the values of their fields
    """This task's block, or field, with the changes between `before` and `after`."""
    if after == before:
        return own
    if not all(isinstance(value, Block) for value in (after, before, own)):
        return after
    if type(_unwrapped(before)) is not type(_unwrapped(own)):
        return own
    if (type(after), type(_unwrapped(after))) != (type(before), type(_unwrapped(before))):
        return after
    names = [f.name for f in fields(after)]
    return own.with_(**{n: _with_changes(getattr(own, n), getattr(after, n), getattr(before, n)) for n in names})
