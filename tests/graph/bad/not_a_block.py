from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph(make=MakeX(), double=lambda x: x * 2)


EXPECTED = """WireError: double  is function, not a block. Subclass Block and write its __call__."""
