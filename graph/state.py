"""The progress of a run as plain data, and what it was after earlier steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .sizes import value_bytes

HISTORY_BYTES = 2**28
"""The limit on the carried values and memory of earlier steps that a run keeps: 256 MiB."""


@dataclass
class State:
    """The progress of a run."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Finished nodes outside loops: their live values, functions left out."""
    turns: dict[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict[str, tuple[int, Mapping[str, Any]]])
    """Loops that have begun: the next turn, and the values that it begins with."""
    memory: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    """Memory of the loops that have begun, by node, as it was when their turn began."""
    origins: dict[str, str] = field(default_factory=dict[str, str])
    """Nodes whose outputs are not made by their inputs alone, since they went on from a run with other ones or finished
    early: a key of that run's part, for a memo."""

    def copy(self) -> "State":
        """A copy that does not change with this one. Values are shared, since nothing changes them."""
        done = {node: dict(values) for node, values in [*self.done.items()]}
        memory = {node: dict(values) for node, values in [*self.memory.items()]}
        return State(done, dict(self.turns), memory, dict(self.origins))

    def forget_loop(self, path: str) -> None:
        """Drop the progress and the memory of a loop, and of all inside."""
        dot = f"{path}."
        for name in [name for name in self.turns if name == path or name.startswith(dot)]:
            del self.turns[name]
        self.forget_memory(path)

    def forget_memory(self, path: str) -> None:
        """Drop the memory of the nodes inside a loop."""
        dot = f"{path}."
        for node in [node for node in self.memory if node.startswith(dot)]:
            del self.memory[node]


class Moment(NamedTuple):
    """The progress of a run when a loop had done some turns."""

    loop: str
    turn: int
    state: State
    bytes: int


class History:
    """The progress after each turn of the loops. Beyond a limit of bytes every second moment is dropped.

    The newest moment always stays.
    """

    def __init__(self, limit: int = HISTORY_BYTES) -> None:
        self._limit = limit
        self._moments: list[Moment] = []
        self._bytes = 0

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Those that are kept, the newest last."""
        return tuple(self._moments)

    def add(self, loop: str, state: State) -> None:
        """Keep the present progress of a loop."""
        turn, carried = state.turns[loop]
        size = value_bytes(carried) + value_bytes(state.memory)
        self._moments.append(Moment(loop, turn, state.copy(), size))
        self._bytes += size
        while self._bytes > self._limit and len(self._moments) > 1:
            self._moments = self._moments[::-2][::-1]
            self._bytes = sum(moment.bytes for moment in self._moments)


class Cell:
    """A place that a function made by a block may write to; a loop freezes its value into memory after each turn."""

    def __init__(self, value: Any) -> None:
        self.value = value
