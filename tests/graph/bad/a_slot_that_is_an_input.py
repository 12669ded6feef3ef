from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY(), slots={"x": ["double"]})


EXPECTED = (
    """WireError: x  is a slot and also an input of this graph. Call keywords are one namespace: rename the slot."""
)
