from sfumato.graph import Graph

from ..fakes import UseTool


def wrong() -> object:
    return Graph(use=UseTool()).bind(tool="hammer")


EXPECTED = """WireError: tool  is str, but use needs Tool, an object of that class."""
