from sfumato.graph import Graph, Loop

from ..fakes import AddItem, XToY, YToZ


def wrong() -> object:
    return Loop(over="items", each="item", carry=("z",), body=Graph(step=AddItem(), double=XToY(), last=YToZ()))


EXPECTED = """WireError: carry  no block of the body takes 'z', so no turn would read it. Give a block the input 'z', with a default, or do not carry it."""
