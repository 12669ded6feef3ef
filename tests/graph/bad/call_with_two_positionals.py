from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY())(1, 2)


EXPECTED = """InputError: call  takes one value without a name, which is 'x', got 2. Write name=value."""
