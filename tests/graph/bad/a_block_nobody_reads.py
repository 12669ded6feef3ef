from typing import NamedTuple

from sfumato.graph import Block, Graph

from ..fakes import MakeY, XToY


class XYZ(NamedTuple):
    x: int
    extra: int


class Both(Block):
    def __call__(self) -> XYZ:
        return XYZ(1, 2)


def wrong() -> object:
    return Graph(both=Both(), double=XToY(), make=MakeY(), outputs=("y",))


EXPECTED = """WireError: double  no block reads its outputs (y). make replaces 'y' before any block reads it. Put it before a block that takes one, or rename its output: named(block, y='double_y')."""
