from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY())(x="64")


EXPECTED = """InputError: x  takes int, got '64' (str)."""
