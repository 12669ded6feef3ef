from sfumato.graph import Block, Graph, named

from ..fakes import Text, XToY


class TakesText(Block):
    def __call__(self, y: str) -> Text:
        return Text(y)


def wrong() -> object:
    return Graph(double=XToY(), text=TakesText(), last=named(XToY(), y="w"), outputs=("text", "w", "image"))


EXPECTED = """WireError: (2 problems)
  text.y  takes str, but double gives int. Put a block that makes str between them, or wire another source: graph.wire('text.y', 'node.output').
  image   is declared as an output, but no node gives it. There are: y, text, w."""
