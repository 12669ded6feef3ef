from sfumato.graph import Graph

from ..fakes import Add, MakeX, Say, Sum


def wrong() -> object:
    return Graph(make=MakeX(), sum=Sum(), say=Say(), add=Add()).wire("add.x", "say.text")


EXPECTED = """WireError: add.x  takes int, but say gives str as 'text'. Put a block that makes int between them, or wire another source: graph.wire('add.x', 'node.output')."""
