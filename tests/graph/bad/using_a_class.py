from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY(), slots={"guider": ["double"]}).using(guider=XToY)


EXPECTED = """WireError: guider  is the class XToY. Make a block of it: guider=XToY()."""
