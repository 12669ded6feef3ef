from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY())(sed=3)


EXPECTED = """InputError: sed  no such input. Did you mean 'seed'? There are: seed."""
