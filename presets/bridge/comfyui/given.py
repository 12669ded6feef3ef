"""The inputs of one node, resolved; and the tables of functions that translate node types."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .values import Out, Setting, Value
from .workflow import Node

T = TypeVar("T")


class Unmapped(Exception):
    """A node that no block stands for. The text is the reason."""


class Given:
    """A node with the values of its inputs: literals, and what other nodes give."""

    def __init__(self, node: Node, values: Mapping[str, Value], notes: list[str]) -> None:
        self.node, self.values, self.notes = node, values, notes

    def note(self, text: str) -> None:
        """Add what was left out, and why, to the report of the node."""
        self.notes.append(text)

    def get(self, name: str, kind: type[T]) -> T:
        """An input that is an object of this class. Unmapped for another, or none."""
        value = self.values.get(name)
        if isinstance(value, kind):
            return value
        raise Unmapped(self._unfit(name))

    def find(self, name: str, kind: type[T]) -> T | None:
        """The same, or None where nothing is linked."""
        return None if self.values.get(name) is None else self.get(name, kind)

    def any_of(self, name: str, *kinds: type) -> Any:  # an object of one of the classes
        """An input that is an object of one of these classes."""
        value = self.values.get(name)
        if isinstance(value, kinds):
            return value
        raise Unmapped(self._unfit(name))

    def text(self, name: str, default: str | None = None) -> str:
        """A text."""
        value = self.values.get(name, default)
        if isinstance(value, str):
            return value
        raise Unmapped(self._unfit(name))

    def number(self, name: str, default: float | None = None) -> float:
        """A number."""
        value = self.values.get(name, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        raise Unmapped(self._unfit(name))

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number."""
        return int(self.number(name, default))

    def setting(self, name: str, default: Setting | None = None) -> Setting:
        """A literal, or an output that gives one in a run."""
        value = self.values.get(name, default)
        if isinstance(value, int | float | str | bool | Out):
            return value
        raise Unmapped(self._unfit(name))

    def _unfit(self, name: str) -> str:
        if (value := self.values.get(name)) is None:
            return f"its input {name!r} has no value"
        if isinstance(value, Out):
            return f"its input {name!r} is made by the node {value.node}, which has no block for that"
        return (
            f"its input {name!r} cannot be {value if isinstance(value, int | float | str) else type(value).__name__!r}"
        )


Translate = Callable[[Given], tuple[Value, ...]]
TRANSLATE: dict[str, Translate] = {}
"""By node type: from the inputs of a node to the values on its outputs."""


def translates(*kinds: str) -> Callable[[Translate], Translate]:
    """Register a function for these node types."""

    def add(function: Translate) -> Translate:
        TRANSLATE.update(dict.fromkeys(kinds, function))
        return function

    return add
