from typing import NamedTuple

from sfumato.graph import Block, Graph

from ..fakes import XToY


class GivesText(NamedTuple):
    x: str


class ReadName(Block):
    def __call__(self, path: str) -> GivesText:
        return GivesText(path)


def wrong() -> object:
    return Graph(read=ReadName(), double=XToY())


EXPECTED = """WireError: double.x  takes int, but read gives str. Put a block that makes int between them, or wire another source: graph.wire('double.x', 'node.output')."""
