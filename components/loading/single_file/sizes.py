"""The shapes of one model's tensors, from which its config is derived."""

from collections.abc import Mapping

from ....graph.errors import LoadError
from ...storage.tensors import Shape

_LARGEST = 999
"""The largest number of a block or layer in a name. No model has more, and a larger one would only fill memory."""


class Sizes:
    """The shapes of a model's tensors by name. A missing tensor or an unfit shape is a LoadError that names it."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.shapes = shapes

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def of(self, name: str, dimensions: int) -> Shape:
        """The shape of a tensor. LoadError if it is missing, empty, or has another number of dimensions."""
        if name not in self.shapes:
            raise LoadError(f"it lacks {name}")
        shape = self.shapes[name]
        if len(shape) != dimensions or 0 in shape:
            raise LoadError(f"its {name} has the shape {list(shape)}, and {dimensions} dimensions are needed")
        return shape

    def ending(self, end: str, dimensions: int) -> Shape | None:
        """The shape of the first tensor whose name ends so; None without one."""
        name = next((name for name in self.shapes if name.endswith(end)), None)
        return None if name is None else self.of(name, dimensions)

    def count(self, head: str) -> int:
        """The number of blocks or layers, by the largest number after `head`."""
        return 1 + max((number_after(name, head) for name in self.shapes), default=-1)


def number_after(name: str, head: str) -> int:
    """The number that follows `head` in a name; -1 if there is none.

    >>> number_after("a.down_blocks.12.x", "down_blocks."), number_after("a.b", "down_blocks.")
    (12, -1)
    """
    _, found, rest = name.partition(head)
    number = rest.partition(".")[0]
    plain = bool(found) and number.isascii() and number.isdecimal() and len(number) <= len(str(_LARGEST))
    return int(number) if plain else -1
