from sfumato.graph import Block, Graph, Loop

from ..fakes import X, Y


class From1(Block):
    def __call__(self, item: int, x: int = 1) -> Y:
        return Y(x)


class From2(Block):
    def __call__(self, y: int, x: int = 2) -> X:
        return X(x)


def wrong() -> object:
    return Loop(over="items", each="item", carry=("x",), body=Graph(one=From1(), two=From2()))


EXPECTED = """WireError: carry  the readers of 'x' have different defaults, and a loop needs one. Give them the same."""
