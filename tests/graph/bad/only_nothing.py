from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).only()


EXPECTED = """WireError: only  name an output. There are: x, y."""
