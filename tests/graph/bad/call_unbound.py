from sfumato.graph import Graph

from ..fakes import UseTool


def wrong() -> object:
    return Graph(use=UseTool())(x=1)


EXPECTED = """InputError: tool  no component is bound, and use needs Tool. Write graph.bind(tool=…), or load a checkpoint: sf.load(…)."""
