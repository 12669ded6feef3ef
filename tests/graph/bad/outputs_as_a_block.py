from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph(outputs=MakeX())  # pyright: ignore[reportArgumentType]  on purpose


EXPECTED = """WireError: outputs  is a reserved word: outputs=('images',) names what a call gives back. Give the node another name."""
