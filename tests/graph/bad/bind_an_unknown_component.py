from sfumato.graph import Graph

from ..fakes import Tool, UseTool


def wrong() -> object:
    return Graph(use=UseTool()).bind(tol=Tool())


EXPECTED = """WireError: tol  no block of this graph needs such a component. Did you mean 'tool'? There are: tool."""
