from sfumato.graph import Block, Graph, Loop

from ..fakes import AddItem, X


class TakesItems(Block):
    def __call__(self, items: int, x: int) -> X:
        return X(x)


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem(), more=TakesItems()))


EXPECTED = (
    """WireError: over  the body also takes 'items', as int, but 'items' is a Sequence[int] here. Rename one of them."""
)
