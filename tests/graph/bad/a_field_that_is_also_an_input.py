from sfumato.graph import Block, Graph, knob

from ..fakes import Y


class Twice(Block):
    x: int = knob(1)

    def __call__(self, x: int) -> Y:
        return Y(x)


def wrong() -> object:
    return Graph(twice=Twice())


EXPECTED = """Malformed: Twice: x is both a field and a parameter of __call__. Keep one."""
