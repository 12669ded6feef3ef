from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph(make=MakeX(), outputs="x")


EXPECTED = """WireError: outputs  is the text 'x', not a tuple. Write outputs=('x',)."""
