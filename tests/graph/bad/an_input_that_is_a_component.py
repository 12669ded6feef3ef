from sfumato.graph import Block, Graph

from ..fakes import UseTool, Z


class TakesTool(Block):
    def __call__(self, y: int, tool: int) -> Z:
        return Z(y + tool)


def wrong() -> object:
    return Graph(use=UseTool(), other=TakesTool())


EXPECTED = (
    """WireError: tool  is an input and also a component. Call keywords are one namespace: named(block, tool='…')."""
)
