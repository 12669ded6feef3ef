from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY())(x=True)


EXPECTED = """InputError: x  takes int, got True (bool)."""
