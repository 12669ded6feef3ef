from sfumato.graph import Graph

from ..fakes import MakeX, MakeY, XToY


def wrong() -> object:
    return Graph(make=MakeX(), other=MakeY(), double=XToY(), outputs=("y",))


EXPECTED = """WireError: other  no block reads its outputs (y). double replaces 'y' before any block reads it. Put it before a block that takes one, or rename its output: named(block, y='other_y')."""
