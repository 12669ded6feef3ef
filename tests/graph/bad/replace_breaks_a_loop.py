from sfumato.graph import Graph, Loop

from ..fakes import Add, AddItem


def wrong() -> object:
    body = Graph(step=AddItem())
    return Graph(denoise=Loop(over="items", each="item", carry=("x",), body=body)).replace("denoise.step", Add())


EXPECTED = """WireError: denoise.each  no block of the body takes 'item'. There are: x."""
