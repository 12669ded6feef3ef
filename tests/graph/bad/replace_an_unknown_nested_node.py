from sfumato.graph import Graph, Loop

from ..fakes import Add, AddItem


def wrong() -> object:
    body = Graph(guider=AddItem())
    return Graph(denoise=Loop(over="items", each="item", carry=("x",), body=body)).replace("denoise.gider", Add())


EXPECTED = """WireError: denoise.gider  no such node. Did you mean 'guider'? There are: guider."""
