from sfumato.graph import Loop

from ..fakes import AddItem


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=AddItem())  # type: ignore[arg-type]  # on purpose


EXPECTED = """WireError: body  is AddItem, not a graph. Write body=Graph(name=block, …)."""
