from sfumato.graph import Graph

from ..fakes import UseTool


def wrong() -> object:
    return Graph(use=UseTool()).bind(tool="hammer")


EXPECTED = (
    """WireError: tool  is 'hammer', but use needs Tool. If that is a path, load it: sf.load_component('hammer')."""
)
