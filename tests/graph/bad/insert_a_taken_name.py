from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).insert("double", Add(), after="make")


EXPECTED = """WireError: double  is taken by XToY. Choose another name."""
