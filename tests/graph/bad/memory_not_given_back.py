from sfumato.graph import Block, Graph, Memory

from ..fakes import Y


class Forget(Block):
    def __call__(self, x: int, past: Memory[int] = 0) -> Y:
        return Y(x + past)


def wrong() -> object:
    return Graph(forget=Forget())


EXPECTED = """Malformed: Forget.__call__: memory 'past' must also be an output of type Memory[…], for the next turn."""
