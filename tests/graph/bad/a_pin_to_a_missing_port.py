from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).wire("double.z", "make.x")


EXPECTED = """WireError: double.z  is wired from make.x, but double has no input 'z'. There are: x."""
