"""Swaps: components and slots that a call or `using` changes. A graph changed for one call is an overlay."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from ..registry import HINTS, Names, UnknownName, blocks, closest, codecs, hint_for_class, table
from .binding import bound, with_own_components
from .block import Block
from .cache import cached
from .edits import replaced
from .errors import ConfigError, Problem, WireError
from .keywords import ATTENTION
from .knobs import UNKNOWN, WithKnobs, with_knobs
from .named import named_like
from .structure import Structure

S = TypeVar("S", bound=Structure)


def using(graph: S, swaps: Mapping[str, Any]) -> S:
    """`graph.using`: the graph with components and slots swapped, with other defaults of knobs, and a backend."""
    if ATTENTION in swaps and ATTENTION not in (*graph.slots, *graph.components, *graph.inputs):
        others = {name: value for name, value in swaps.items() if name != ATTENTION}
        return codecs["attended"](using(graph, others), swaps[ATTENTION])
    graph = with_own_components(graph, swaps)
    components = {n: v for n, v in swaps.items() if n in graph.components}
    slots = {n: v for n, v in swaps.items() if n in graph.slots}
    defaults = {n: found for n, v in swaps.items() if n in graph.inputs and (found := _readers(graph, n, v))}
    known = [*graph.slots, *graph.components]
    problems = [
        Problem(
            "no-slot", name, "is neither a slot nor a component. "
            + (f"{HINTS[name]} " if name in HINTS else _guess(name, known))
            + f"Slots: {', '.join(graph.slots) or 'none'}. Components: {', '.join(graph.components) or 'none'}.",
            name, candidates=tuple(closest(name, known)),
        )
        for name in swaps if name not in known and name not in defaults
    ]  # fmt: skip
    blocks: dict[str, Block] = {}
    for name, value in slots.items():
        try:
            blocks[name] = as_block(name, value)
        except (ConfigError, UnknownName) as error:
            problems.append(Problem("slot", name, str(error), type(value).__name__))
    together: dict[str, WithKnobs] = {}
    for reader in (reader for readers in defaults.values() for reader in readers):
        before = together.get(reader.path, reader)
        together[reader.path] = reader._replace(knobs={**before.knobs, **reader.knobs})
    changed: list[tuple[str, Block]] = []
    for one in together.values():
        try:
            changed.append((one.path, named_like(one.outer, one.block.with_(**one.knobs))))
        except ConfigError as error:
            names = [name for name, readers in defaults.items() if any(r.path == one.path for r in readers)]
            problems.append(Problem("knob", ", ".join(names), str(error), type(swaps[names[0]]).__name__))
    if problems:
        raise WireError(problems)
    for path, block in changed:
        graph = replaced(graph, path, block)
    for name, block in blocks.items():
        for path in graph.slots[name]:
            graph = replaced(graph, path, named_like(graph[path], block))
    return bound(graph, components) if components else graph


def _readers(graph: Structure, name: str, value: Any) -> list[WithKnobs]:
    """The blocks that read an input of the graph as a knob."""
    known = [
        reader._replace(knobs={k: v for k, v in reader.knobs.items() if v is not UNKNOWN})
        for reader in with_knobs(graph, {name: value}, _any_block)
    ]
    return [reader for reader in known if reader.knobs]


def _any_block(block: Block) -> bool:
    return True


def _guess(name: str, known: Sequence[str]) -> str:
    near = closest(name, known, 1)
    return f"Did you mean {near[0]!r}? " if near else ""


def as_block(slot: str, value: Any) -> Block:
    """The block for a slot: itself, or made from a published name or a config dict (`{"_class_name": …}`)."""
    if isinstance(value, Block):
        return value
    names = _names_of(slot)
    if isinstance(value, str):
        return cast(type[Block], names[value])()
    if isinstance(value, Mapping) and "_class_name" in value:
        config = cast(Mapping[str, Any], value)
        return cast(type[Block], names[config["_class_name"]]).from_config(config)
    if isinstance(value, type) and issubclass(value, Block):
        raise ConfigError(f"is the class {value.__name__}. Make a block of it: {slot}={value.__name__}().")
    text = f"takes a block, a name, or a config dict with '_class_name', got {type(value).__name__}."
    raise ConfigError(hint_for_class(type(value)) or text)


def _names_of(slot: str) -> Names:
    """The names of what may be in a slot."""
    return blocks if (names := table(slot)) is None else names


def overlay(graph: Structure, swaps: Mapping[str, Any]) -> Structure:
    """The graph with a call's swaps, made once."""
    if not swaps:
        return graph
    key = tuple((n, _key(value), _names_of(n).replaced) for n, value in swaps.items())
    return cached(graph, "overlay", lambda: using(graph, swaps), key)


def _key(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "config", repr(sorted(cast(Mapping[str, Any], value).items()))
    try:
        hash(value)
    except TypeError:
        return "object", id(value)  # it lives as long as the overlay that holds it
    return type(value), value
