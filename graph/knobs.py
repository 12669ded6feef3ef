"""The knobs that a call sets, block by block: a call's values, followed along the edges into every graph inside."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from .block import Block
from .cache import cached
from .errors import ConfigError, Problem
from .fields import fields_of
from .paths import blocks_inside, without_names
from .structure import Container, Structure
from .wiring import INPUTS

UNKNOWN: Any = object()
"""A value that a node makes: it is known only while running."""


class WithKnobs(NamedTuple):
    """A block, and the knobs that a call sets."""

    path: str
    outer: Block
    """The block with the names that it has in its graph."""
    block: Block
    knobs: Mapping[str, Any]
    """Values by field; `UNKNOWN` for those that a node makes."""


class _Reader(NamedTuple):
    """A node whose block, or a block inside it, passes a test; and the edges that lead to it."""

    name: str
    outer: Block
    block: Block
    edges: tuple[tuple[str, bool, str], ...]
    """The input's name in the block, whether it is an input of the graph, and the name of the output."""
    fields: tuple[str, ...]


def with_knobs(
    graph: Structure, values: Mapping[str, Any], test: Callable[[Block], bool], path: str = ""
) -> Iterator[WithKnobs]:
    """Every block that holds no other and passes a test, with the knobs that these inputs of the graph set."""
    for name, outer, block, edges, fields in cached(graph, "readers", lambda: tuple(_readers(graph, test)), test):
        passed = {
            port: values.get(output) if from_inputs else UNKNOWN
            for port, from_inputs, output in edges if not from_inputs or output in values
        }  # fmt: skip
        if isinstance(block, Container):
            for inside in block.insides():
                varying = dict.fromkeys(inside.varying, UNKNOWN)
                yield from with_knobs(inside.graph, {**passed, **varying}, test, f"{path}{inside.path(name)}.")
        else:
            yield WithKnobs(path + name, outer, block, {k: passed[k] for k in fields if k in passed})


def _readers(graph: Structure, test: Callable[[Block], bool]) -> Iterator[_Reader]:
    for name, outer in graph.nodes.items():
        block, outside = without_names(outer)
        if any(map(test, dict(blocks_inside(block)).values())) if isinstance(block, Container) else test(block):
            inner = {new: old for old, new in outside.inputs.items()}
            edges = tuple((inner[e.input], e.giver == INPUTS, e.output) for e in graph.edges if e.taker == name)
            yield _Reader(name, outer, block, edges, tuple(block.config()))


def knob_problems(graph: Structure, values: Mapping[str, Any]) -> Iterable[Problem]:
    """Knobs that fit their types and yet not each other, or not the fields of their block."""
    for path, _, block, knobs in with_knobs(graph, values, _has_agreements):
        known = {name: value for name, value in knobs.items() if value is not UNKNOWN}
        if known:
            try:
                block.with_(**known)
            except ConfigError as error:
                yield Problem("value", path, str(error))


def _has_agreements(block: Block) -> bool:
    """Whether fields of this block must agree with each other."""
    return hasattr(type(block), "__post_init__") or bool(fields_of(type(block)).order)
