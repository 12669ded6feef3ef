"""Events of a run: a class for each kind, so that programs match on types."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run. The path is that of its node ("denoise.guider")."""

    path: str


@dataclass(frozen=True, slots=True)
class BlockStarted(Event):
    """A block starts: its components are loaded, and it is called next."""


@dataclass(frozen=True, slots=True)
class BlockFinished(Event):
    """A block has finished. seconds: the time of its call. bytes: the size of the tensors in its outputs."""

    seconds: float
    bytes: int


@dataclass(frozen=True, slots=True)
class BlockReused(Event):
    """The outputs of a node are those of an earlier run, from the memo. seconds: the time that they took then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ComponentLoaded(Event):
    """A component was loaded for a block. name: of the component in the graph. seconds: the time of the load."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class TurnFinished(Event):
    """A turn of a loop or a map has finished: the first of `turns` is turn 1. The path is that of the loop.

    values: what the next turn begins with; of a map, the lists of results so far.
    """

    turn: int
    turns: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A text for the user, such as the words that were cut from a long prompt."""

    text: str


@dataclass(frozen=True, slots=True)
class RunFinished(Event):
    """The run has finished: its last event. The path is "". outputs: the result, as `run.outputs`."""

    outputs: Mapping[str, Any]


Events = Generator[Event, None, dict[str, Any]]
"""Events of a part of a run, and its outputs at the end."""
