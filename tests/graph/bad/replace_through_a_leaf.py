from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).replace("double.inner", Add())


EXPECTED = """WireError: double.inner  no such node: double is XToY, which holds no blocks."""
