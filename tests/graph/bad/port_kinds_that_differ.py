from typing import Annotated, NamedTuple

from sfumato.graph import Block, Graph, Port

from ..fakes import Y

Positive = Annotated[str, Port("positive")]


class Encoded(NamedTuple):
    text: str


class EncodePrompt(Block):
    def __call__(self, prompt: str) -> Encoded:
        return Encoded(prompt)


class Guide(Block):
    def __call__(self, text: Positive) -> Y:
        return Y(len(text))


def wrong() -> object:
    return Graph(encode=EncodePrompt(), guide=Guide())


EXPECTED = """WireError: guide.text  takes Positive, but encode gives str. If it is one, say so where it is made: text: Positive."""
