from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY(), outputs=("image",))


EXPECTED = """WireError: image  is declared as an output, but no node gives it. There are: x, y."""
