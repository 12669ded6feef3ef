from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY(), slots={"guider": ["double"]}).using(guider=3)


EXPECTED = """WireError: guider  takes a block, a name, or a config dict with '_class_name', got int."""
