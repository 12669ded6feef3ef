from typing import Protocol

from sfumato.graph import Block, Graph, component

from ..fakes import Tool, Y


class Scorer(Protocol):
    def score(self, x: int) -> float: ...


class Judge(Block):
    scorer: Scorer = component()

    def __call__(self, x: int) -> Y:
        return Y(int(self.scorer.score(x)))


def wrong() -> object:
    return Graph(judge=Judge()).bind(scorer=Tool())


EXPECTED = """WireError: scorer  is Tool, but judge needs Scorer: it has no score."""
