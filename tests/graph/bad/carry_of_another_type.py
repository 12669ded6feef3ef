from typing import NamedTuple

from sfumato.graph import Block, Graph, Loop


class Halved(NamedTuple):
    x: float


class Halve(Block):
    def __call__(self, x: int, item: int) -> Halved:
        return Halved(x / 2)


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=Graph(halve=Halve()))


EXPECTED = """WireError: carry  'x' is float after a turn, but the next turn takes int. Give it one type."""
