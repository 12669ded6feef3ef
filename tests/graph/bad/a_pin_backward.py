from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(double=XToY(), make=MakeX()).wire("double.x", "make.x")


EXPECTED = """WireError: double.x  is wired from make.x, which comes later. Move 'make' before 'double', or carry the value in a Loop."""
