from sfumato.graph import Block, Graph

from ..fakes import XY, MakeX, Sum


class MakeBoth(Block):
    def __call__(self) -> XY:
        return XY(1, 2)


def wrong() -> object:
    return Graph(both=MakeBoth(), make=MakeX(), sum=Sum())


EXPECTED = """WireError: both.x  make replaces it before any block reads it. Put a reader between them, or rename one: named(block, x='…')."""
