from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph({"inputs": MakeX()})


EXPECTED = """WireError: inputs  is a reserved word. Give the node another name."""
