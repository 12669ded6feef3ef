from sfumato.graph import Graph, Loop

from ..fakes import AddItem


def wrong() -> object:
    return Loop(over="items", each="item", carry="x", body=Graph(step=AddItem()))  # type: ignore[arg-type]  # on purpose


EXPECTED = """WireError: carry  is the text 'x', not a tuple. Write carry=('x',)."""
