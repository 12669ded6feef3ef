from sfumato.graph import Graph, Loop

from ..fakes import AddItem, MakeY


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem(), make=MakeY()))


EXPECTED = """WireError: make  nobody reads what it gives (y). Put it before a block that takes one, or ask for one: outputs=(…, 'y') (in a loop: carry)."""
