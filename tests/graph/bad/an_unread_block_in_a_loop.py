from sfumato.graph import Graph, Loop

from ..fakes import AddItem, MakeY


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem(), make=MakeY()))


EXPECTED = """WireError: make  no block reads its outputs (y). Put it before a block that takes one, or make it an output: carry=('x', 'y')."""
