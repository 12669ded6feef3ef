from sfumato.graph import Graph

from ..fakes import XToY


def wrong() -> object:
    return Graph(double=XToY(), slots={"guider": ["doubel"]})


EXPECTED = """WireError: guider  stands for 'doubel': no such node. Did you mean 'double'? There are: double."""
