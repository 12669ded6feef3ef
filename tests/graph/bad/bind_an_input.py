from sfumato.graph import Graph

from ..fakes import UseTool


def wrong() -> object:
    return Graph(use=UseTool()).bind(x=3)


EXPECTED = """WireError: x  no block of this graph needs such a component. It is an input: give it in the call. There are: tool."""
