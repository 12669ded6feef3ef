from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).insert("add", Add(), before="dubble")


EXPECTED = """WireError: dubble  no such node. Did you mean 'double'? There are: make, double."""
