from sfumato.graph import Block, Graph, Switch

from ..fakes import XToY, Y


class TakesText(Block):
    def __call__(self, x: str) -> Y:
        return Y(len(x))


def wrong() -> object:
    return Switch(on="mode", cases={"a": Graph(go=XToY()), "b": Graph(go=TakesText())})


EXPECTED = """WireError: cases.x  no value fits all cases: a takes int, b takes str."""
