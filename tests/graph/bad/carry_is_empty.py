from sfumato.graph import Graph, Loop

from ..fakes import AddItem


def wrong() -> object:
    return Loop(over="items", each="item", carry=(), body=Graph(step=AddItem()))


EXPECTED = (
    """WireError: carry  is empty, so the loop would have no output. Name the ports to carry: carry=('latents',)."""
)
