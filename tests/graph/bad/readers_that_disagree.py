from sfumato.graph import Block, Graph

from ..fakes import XToY, Z


class TakesText(Block):
    def __call__(self, x: str) -> Z:
        return Z(len(x))


def wrong() -> object:
    return Graph(double=XToY(), text=TakesText())


EXPECTED = """WireError: inputs.x  no value fits all its readers: double.x takes int, text.x takes str. Rename one: named(block, x='…')."""
