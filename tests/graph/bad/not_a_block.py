from sfumato.graph import Graph

from ..fakes import MakeX


def doubled(x: int) -> int:
    return x * 2


def wrong() -> object:
    return Graph(make=MakeX(), double=doubled)  # pyright: ignore[reportArgumentType]  on purpose


EXPECTED = """WireError: double  is function, not a block. Subclass Block and write its __call__."""
