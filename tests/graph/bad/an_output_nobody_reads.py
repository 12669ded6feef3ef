from sfumato.graph import Graph

from ..fakes import MakeX, MakeY, XToY


def wrong() -> object:
    return Graph(make=MakeX(), other=MakeY(), double=XToY(), outputs=("y",))


EXPECTED = """WireError: other  nobody reads what it gives (y). double gives 'y' again before anyone reads it. Put it before a block that takes one, or ask for one: outputs=(…, 'y') (in a loop: carry)."""
