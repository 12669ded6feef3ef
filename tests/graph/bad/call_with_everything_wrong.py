from sfumato.graph import Graph, named

from ..fakes import UseTool, XToY


def wrong() -> object:
    return Graph(double=XToY(), use=named(UseTool(), y="w", x="v"))(x="two", see=3)


EXPECTED = """InputError: (4 problems)
  see   no such input. There are: x, v, tool.
  v     needs a value: int, read by use.v.
  tool  no component is bound, and use needs Tool. Write graph.bind(tool=…), or load a checkpoint: sf.load(…).
  x     takes int, got 'two' (str)."""
