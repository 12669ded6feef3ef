from sfumato.graph import Graph, Loop

from ..fakes import AddItem


def wrong() -> object:
    return Loop(over="items", each="itm", carry=("x",), body=Graph(step=AddItem()))


EXPECTED = """WireError: each  no block of the body takes 'itm'. Did you mean 'item'? There are: x, item."""
