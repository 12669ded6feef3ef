"""`freeze`: the part of a recipe that a training does not change, computed once for each sample and kept by a memo."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, overload

import torch
from torch import Tensor

from ....components.random import Random
from ....graph import Block, Edge, Graph, UnfitValue, named
from ....graph.analysis import nodes_to_run
from ....graph.edits import edited
from ....graph.memo import Memo
from ....graph.memo.node_keys import unchanged_components
from ....graph.run_order import gives_function
from ....graph.typing import union_members, untagged
from ....graph.wiring import INPUTS, last_givers
from .samples import PICTURES, VALUES, Batch, Sample

Value = tuple[str, str]  # node, output
_OF_ROWS = frozenset((*PICTURES, *VALUES))


def freeze(recipe: Graph, trained: Collection[str], memo: Memo) -> "FrozenPart":
    """Find the frozen part of a recipe: the nodes that read neither random numbers nor anything trained.

    Its values, such as the posterior of the latents and the conditioning, are the same in each epoch. The memo keeps
    them by the contents of the picture, its placement, the caption and the models. So a value never meets another
    sample, and after a change of the model or the crop it is computed anew.

    Args:
        recipe: bound to its components.
        trained: the names of the components that the training changes.
        memo: `sf.memo("folder")` keeps the values for later trainings too.
    """
    left_out: set[str] = set()
    while True:  # a node is left out where its values could not be told from those of another
        frozen = _frozen(recipe, trained, left_out)
        edges = [e for e in recipe.edges if e.giver in frozen and e.taker not in frozen]
        frontier = dict.fromkeys((e.giver, e.output) for e in edges)
        last = last_givers({name: recipe.nodes[name] for name in recipe.nodes if name in frozen})
        hiding = {last[output] for giver, output in frontier if last[output] != giver}
        given_out = {node for name, node in last_givers(recipe.nodes).items() if name in recipe.wanted} & frozen
        if not (more := hiding | given_out):
            break
        left_out |= more
    if not frontier:
        return FrozenPart(recipe, None, {}, memo)
    names = _names(recipe, frozen, frontier)
    return FrozenPart(_rest(recipe, frozen, names), _alone(recipe, frontier), {o: names[g, o] for g, o in names}, memo)


# ------------------------------------------------------------------------------------------------ dividing the recipe
def _frozen(recipe: Graph, trained: Collection[str], left_out: Collection[str]) -> set[str]:
    """The frozen nodes whose values depend on the sample."""
    frozen: set[str] = set()
    same: set[str] = set()  # values that are the same for all samples, which the recipe makes itself
    for name, block in recipe.nodes.items():
        inputs = [e for e in recipe.edges if e.taker == name]
        kept = (e.giver in frozen | same if e.giver != INPUTS else _is_fixed(block, e) for e in inputs)
        if name in left_out or not _is_pure(block) or not _is_untrained(block, trained) or not all(kept):
            continue
        of_rows = any(e.giver in frozen or (e.giver == INPUTS and e.output in _OF_ROWS) for e in inputs)
        (frozen if of_rows else same).add(name)
    return frozen


def _is_untrained(block: Block, trained: Collection[str]) -> bool:
    """Whether a block needs none of the trained components."""
    return block.signature.components.keys().isdisjoint(trained)


def _is_fixed(block: Block, edge: Edge) -> bool:
    """Whether an input of the recipe is of the sample, or has a default that a training does not replace."""
    port = block.signature.inputs[edge.input]
    draws = any(untagged(arm) is Random for arm in union_members(port.type))
    return edge.output in _OF_ROWS or not (port.required or draws)


def _is_pure(block: Block) -> bool:
    signature = block.signature
    pure = block.pure and not block.random_without and not signature.memory
    return (
        pure
        and not any(map(gives_function, signature.outputs.values()))
        and all(map(_is_pure, block.children().values()))
    )


def _names(recipe: Graph, frozen: Collection[str], frontier: Iterable[Value]) -> dict[Value, str]:
    """The names of the frozen values as inputs of the rest: their own, unless the rest has an input of that name."""
    taken = {e.output for e in recipe.edges if e.giver == INPUTS and e.taker not in frozen}
    return {(node, name): f"{node}_{name}" if name in taken else name for node, name in frontier}


def _rest(recipe: Graph, frozen: Collection[str], names: Mapping[Value, str]) -> Graph:
    """The recipe without the frozen nodes. Their values are inputs."""
    edges = [
        replace(e, giver=INPUTS, output=names[e.giver, e.output], pinned=True) if e.giver in frozen else e
        for e in recipe.edges if e.taker not in frozen
    ]  # fmt: skip
    left = {name: block for name, block in recipe.nodes.items() if name not in frozen}
    runs = nodes_to_run(left, edges, recipe.wanted)
    nodes = {name: block for name, block in left.items() if name in runs}
    return edited(recipe, nodes=nodes, pinned=[e for e in edges if e.pinned and e.taker in nodes], slots={})


def _alone(recipe: Graph, frontier: Iterable[Value]) -> Graph:
    """The graph that makes these values alone."""
    kept, waiting = set[str](), [node for node, _ in frontier]
    while waiting:
        if (name := waiting.pop()) not in kept:
            kept.add(name)
            waiting += [e.giver for e in recipe.edges if e.taker == name and e.giver != INPUTS]
    nodes = {name: block for name, block in recipe.nodes.items() if name in kept}
    pinned = [e for e in recipe.edges if e.pinned and e.taker in kept]
    outputs = tuple(dict.fromkeys(output for _, output in frontier))
    return edited(recipe, nodes=nodes, pinned=pinned, declared=outputs, slots={}, preset=None)


# ------------------------------------------------------------------------------------------------ its values
@dataclass(frozen=True)
class FrozenPart:
    """A recipe in two parts. `freeze` makes it.

    recipe: the part that changes; the values of the frozen part are inputs of it. graph: the frozen part, or None where
    nothing is frozen. names: for each output of `graph`, its name as an input of `recipe`.
    """

    recipe: Graph
    graph: Graph | None
    names: Mapping[str, str]
    memo: Memo
    _reading: dict[Any, Graph] = field(default_factory=dict[Any, Graph], init=False, repr=False, compare=False)

    def batches(self, batches: "Epochs") -> "FrozenBatches":
        """The same batches with the frozen values in place of what they are computed from."""
        return FrozenBatches(batches, self)

    def values(self, sample: Sample) -> dict[str, Any]:
        """The frozen values of one sample: computed now, or as the memo has them."""
        if self.graph is None:
            return {}
        one = Batch((sample,), tuple(name for name in VALUES if name in self.graph.inputs)).load()
        pictures: dict[str, Any] = {}
        for name in (name for name in PICTURES if name in self.graph.inputs):
            _, stored = sample.readers[name]
            pictures |= {f"{name}_{port}": picture for port, picture in stored.items()}
        if pictures:
            pictures["placement"] = sample.placement
        outputs = self._graph(sample).stream(**one, **pictures, memo=self.memo).result()
        return {self.names[output]: outputs[output] for output in self.names}

    def _graph(self, sample: Sample) -> Graph:
        """The frozen part with the blocks that read the pictures of a sample."""
        assert self.graph is not None
        readers = {name: sample.readers[name][0] for name in PICTURES if name in self.graph.inputs}
        key = tuple((name, type(block), *block.config().values()) for name, block in readers.items())
        if key not in self._reading:
            self._reading[key] = _reading(self.graph, readers)
        return self._reading[key]


def _reading(graph: Graph, readers: Mapping[str, Block]) -> Graph:
    """The graph with a block before it for each picture that it reads."""
    nodes: dict[str, Block] = {}
    for name, block in readers.items():
        (made,) = block.signature.outputs
        inputs = {port: f"{name}_{port}" for port in block.signature.inputs if port != "placement"}
        nodes[f"read_{name}"] = named(block, **{made: name}, **inputs)
    pinned = [
        replace(e, giver=f"read_{e.output}") if e.giver == INPUTS and e.output in readers else e
        for e in graph.edges if e.pinned
    ]  # fmt: skip
    return edited(graph, nodes={**nodes, **graph.nodes}, pinned=pinned)


class Epochs(Protocol):
    """Batches of all epochs: `Batches`."""

    def epoch(self, number: int) -> Sequence[Batch]:
        """The batches of an epoch."""
        ...


@dataclass(frozen=True)
class FrozenBatches:
    """Batches with frozen values, in the order of the batches that they are made from."""

    batches: Epochs
    part: FrozenPart

    def epoch(self, number: int) -> "FrozenEpoch":
        """The batches of an epoch, counted from 0."""
        return FrozenEpoch(self.batches.epoch(number), self.part)


@dataclass(frozen=True)
class FrozenBatch:
    """A batch whose inputs are frozen values, and those of the data that the rest of the recipe reads."""

    batch: Batch
    part: FrozenPart

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the pictures, one for each row."""
        return self.batch.names

    @property
    def places(self) -> tuple[int, ...]:
        """The numbers of the samples in the epoch, one for each row."""
        return self.batch.places

    def load(self) -> dict[str, Any]:
        """The inputs of `FrozenPart.recipe` for these rows."""
        with unchanged_components():
            rows = [self.part.values(sample) for sample in self.batch.samples]
        read = tuple(name for name in self.batch.inputs if name in self.part.recipe.inputs)
        return {
            **replace(self.batch, inputs=read).load(),
            **{name: joined([r[name] for r in rows]) for name in rows[0]},
        }


class FrozenEpoch(Sequence[FrozenBatch]):
    """The batches of an epoch, with frozen values."""

    def __init__(self, batches: Sequence[Batch], part: FrozenPart) -> None:
        self._batches, self._part = batches, part

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, index: int) -> FrozenBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[FrozenBatch]: ...
    def __getitem__(self, index: int | slice) -> FrozenBatch | list[FrozenBatch]:
        if isinstance(index, slice):
            return [FrozenBatch(batch, self._part) for batch in self._batches[index]]
        return FrozenBatch(self._batches[index], self._part)


def joined(rows: Sequence[Any]) -> Any:  # Any: values that flow in a graph
    """One value with the rows of all.

    Raises:
        UnfitValue: values that have no rows, and differ.
    """
    first = rows[0]
    if isinstance(first, Tensor):
        return torch.cat(list(rows))
    if hasattr(first, "cat"):
        return type(first).cat(list(rows))
    if isinstance(first, tuple):
        parts = cast("Sequence[tuple[Any, ...]]", rows)
        if hasattr(first, "_fields"):
            return type(first)(*(joined(column) for column in zip(*parts, strict=True)))
        return tuple(row for part in parts for row in part)
    if all(row is None for row in rows) or all(row == first for row in rows):
        return first
    raise UnfitValue(
        f"Rows of {type(first).__name__} cannot be joined to a batch. Give the class a method `cat`, or leave the "
        "values of that block out of what is kept."
    )
