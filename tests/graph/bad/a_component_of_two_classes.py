from sfumato.graph import Block, Graph, component

from ..fakes import UseTool, Z


class Other:
    pass


class UseOther(Block):
    tool: Other = component()

    def __call__(self, y: int) -> Z:
        return Z(y)


def wrong() -> object:
    return Graph(use=UseTool(), other=UseOther())


EXPECTED = """WireError: tool  is Tool in use, but Other in other. Rename one: named(block, tool='tool_2')."""
