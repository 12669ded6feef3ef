from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).wire("x", "make.x")


EXPECTED = """WireError: x  is no input of a node. Write 'node.x'. There are: make, double."""
