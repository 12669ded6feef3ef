from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph({"my node": MakeX()})


EXPECTED = (
    """WireError: my node  is no name for a node: use letters, digits and underscores, beginning with a letter."""
)
