from sfumato.graph import Graph

from ..fakes import MakeX, XToY, YToZ


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).wire("double.x", "make.x").replace("double", YToZ())


EXPECTED = """WireError: double.x  is wired from make.x, but double has no input 'x'. There are: y."""
