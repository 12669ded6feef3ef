from sfumato.graph import Graph, Switch

from ..fakes import XToY


def wrong() -> object:
    return Graph(pick=Switch(on="mode", cases={"fast": Graph(go=XToY())}))(mode="slow", x=1)


EXPECTED = """InputError: mode  is 'slow', but there is no such case and no default. There are: fast."""
