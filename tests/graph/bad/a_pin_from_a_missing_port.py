from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).wire("double.x", "make.xx")


EXPECTED = """WireError: double.x  is wired from make.xx, but make gives no 'xx'. Did you mean 'x'? There are: x."""
