from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).only("yy")


EXPECTED = """WireError: yy  is declared as an output, but no node gives it. Did you mean 'y'? There are: x, y."""
