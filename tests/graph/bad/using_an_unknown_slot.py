from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY(), slots={"guider": ["double"]}).using(guder=XToY())


EXPECTED = (
    """WireError: guder  is neither a slot nor a component. Did you mean 'guider'? Slots: guider. Components: none."""
)
