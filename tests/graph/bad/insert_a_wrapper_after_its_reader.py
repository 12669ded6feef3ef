from sfumato.graph import Block, Graph

from ..fakes import CallPredict, MakePredict, Predict, Predicted


class Wrap(Block):
    def __call__(self, predict: Predict) -> Predicted:
        return Predicted(predict)


def wrong() -> object:
    graph = Graph(model=MakePredict(), guide=CallPredict(), outputs=("x",))
    return graph.insert("control", Wrap(), after="guide")


EXPECTED = (
    """WireError: control  no block reads its outputs (predict). guide takes 'predict': insert it before 'guide'."""
)
