from typing import NamedTuple

from sfumato.graph import Block, Graph, Memory


class Forgets(NamedTuple):
    y: int
    past: Memory[int]


class Forget(Block):
    def __call__(self, x: int, past: Memory[int]) -> Forgets:
        return Forgets(x, past)


def wrong() -> object:
    return Graph(forget=Forget())


EXPECTED = """Malformed: Forget.__call__: memory 'past' needs a default for the first turn."""
