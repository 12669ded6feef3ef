from typing import NamedTuple

from sfumato.graph import Block, Graph, Memory


class Remembered(NamedTuple):
    y: int
    past: Memory[int]


class Remember(Block):
    def __call__(self, x: int) -> Remembered:
        return Remembered(x, x)


def wrong() -> object:
    return Graph(remember=Remember())


EXPECTED = (
    """Malformed: Remember.__call__: memory output past must also be an input of type Memory[…] with a default."""
)
