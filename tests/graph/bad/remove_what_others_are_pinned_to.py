from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), add=Add(), double=XToY()).wire("double.x", "make.x").remove("make")


EXPECTED = """WireError: make  double.x is pinned to it. Wire another source first: graph.wire('double.x', …)."""
