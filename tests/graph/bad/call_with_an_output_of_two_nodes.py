from sfumato.graph import Block, Graph, named

from ..fakes import Sum, Y, YToZ


class FromX(Block):
    def __call__(self, x: int) -> Y:
        return Y(x)


def wrong() -> object:
    return Graph(one=FromX(), last=YToZ(), two=named(FromX(), x="w"), sum=named(Sum(), x="z", z="total"))(x=1, w=2, y=3)


EXPECTED = """InputError: y  is made by one and two. A call can pass only what one node makes. Rename one of them."""
