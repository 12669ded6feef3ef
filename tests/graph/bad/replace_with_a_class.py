from sfumato.graph import Graph

from ..fakes import MakeX


def wrong() -> object:
    return Graph(make=MakeX()).replace("make", MakeX)  # pyright: ignore[reportArgumentType]  on purpose


EXPECTED = """WireError: make  is the class MakeX, not a block. Make one: make=MakeX()."""
