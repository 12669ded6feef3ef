from sfumato.graph import Graph, Switch

from ..fakes import XToY


def wrong() -> object:
    return Switch(on="mode", cases={"default": Graph(go=XToY())})


EXPECTED = """WireError: cases.default  is no name for a case: use letters, digits and underscores. The fallback is given as default=."""
