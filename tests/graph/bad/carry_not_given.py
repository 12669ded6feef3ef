from sfumato.graph import Graph, Loop

from ..fakes import AddItem


def wrong() -> object:
    return Loop(over="items", each="item", carry=("latents",), body=Graph(step=AddItem()))


EXPECTED = """WireError: carry  no block of the body gives 'latents'. There are: x."""
