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


def with_knobs(graph: Structure, values: Mapping[str, Any], path: str = "") -> Iterator[WithKnobs]:
    """Every block that holds no other, with the knobs that these inputs of the graph set."""
    for name, outer in graph.nodes.items():
        block, outside = without_names(outer)
        inner = {new: old for old, new in outside.inputs.items()}
        passed = {
            inner[e.input]: values.get(e.output) if e.giver == INPUTS else UNKNOWN
            for e in graph.edges if e.taker == name and (e.giver != INPUTS or e.output in values)
        }  # fmt: skip
        if isinstance(block, Container):
            for inside in block.insides():
                varying = dict.fromkeys(inside.varying, UNKNOWN)
                yield from with_knobs(inside.graph, {**passed, **varying}, f"{path}{inside.path(name)}.")
        else:
            yield WithKnobs(path + name, outer, block, {k: passed[k] for k in block.config() if k in passed})


def some_block(graph: Structure, test: Callable[[Block], bool]) -> bool:
    """Whether some block inside passes a test, which is made once for a graph."""
    return cached(graph, "some block", lambda: any(map(test, dict(blocks_inside(graph)).values())), test)


def knob_problems(graph: Structure, values: Mapping[str, Any]) -> Iterable[Problem]:
    """Knobs that fit their types and yet not each other, or not the fields of their block."""
    if some_block(graph, _has_agreements):
        for path, _, block, knobs in with_knobs(graph, values):
            known = {name: value for name, value in knobs.items() if value is not UNKNOWN}
            if known and _has_agreements(block):
                try:
                    block.with_(**known)
                except ConfigError as error:
                    yield Problem("value", path, str(error))


def _has_agreements(block: Block) -> bool:
    """Whether fields of this block must agree with each other."""
    return hasattr(type(block), "__post_init__") or bool(fields_of(type(block)).order)
