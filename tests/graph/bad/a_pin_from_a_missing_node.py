from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).wire("double.x", "mak.x")


EXPECTED = """WireError: double.x <- mak.x  no such node. Did you mean 'make'? There are: make, double."""
