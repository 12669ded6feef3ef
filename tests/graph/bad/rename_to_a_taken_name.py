from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).rename("make", "double")


EXPECTED = """WireError: double  is taken by XToY. Choose another name."""
