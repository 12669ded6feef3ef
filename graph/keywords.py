"""The keywords of a call, sorted by their use in the graph. They are one namespace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError, Problem
from .own_components import own_components
from .structure import Structure

ADAPTERS, ATTENTION, MEMO, ON_EVENT, PROGRESS = CALL_KEYWORDS = "adapters", "attention", "memo", "on_event", "progress"
"""The keywords of each call, where the graph has no input of that name."""


@dataclass(frozen=True)
class Call:
    """One call of a graph: its keywords by kind."""

    graph: Structure
    """The graph that is called, as it is without the call's swaps."""
    swaps: Mapping[str, Any]
    """Components and slots."""
    values: Mapping[str, Any]
    """Inputs, and outputs of nodes that the call passes itself."""
    adapters: Any = None
    """Adapters, or strengths of those that the graph has, for this call; None for none."""
    attention: Any = None
    """A backend of attention, or backends by component, for this call; None for those that the graph has."""
    memo: Any = None
    """The memo with the outputs of earlier runs; None for none."""
    on_event: Any = None
    """The function that gets each event; None for none."""
    progress: Any = None
    """Whether a progress bar is shown; None for the default."""

    @classmethod
    def of(cls, graph: Structure, positional: Sequence[Any], keywords: Mapping[str, Any]) -> "Call":
        """Sort the keywords of a call; one positional value is the graph's first input. Raises `InputError`."""
        keywords = dict(keywords)
        if positional:
            name = next(iter(graph.inputs), None)
            if len(positional) > 1 or name is None or name in keywords:
                which = f", which is {name!r}" if name else ""
                text = f"takes one value without a name{which}, got {len(positional)}. Write name=value."
                raise InputError(Problem("positional", "call", text))
            keywords[name] = positional[0]
        own = {name: keywords.pop(name, None) for name in CALL_KEYWORDS if name not in graph.inputs}
        swapped = {*graph.slots, *graph.components, *own_components(graph)}
        swaps = {n: v for n, v in keywords.items() if n in swapped}
        return cls(graph, swaps, {n: v for n, v in keywords.items() if n not in swaps}, **own)

    def with_values(self, values: Mapping[str, Any]) -> "Call":
        """The same call with further values."""
        return replace(self, values={**self.values, **values}) if values else self
