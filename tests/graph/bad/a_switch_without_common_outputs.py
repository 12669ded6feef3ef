from sfumato.graph import Graph, Switch

from ..fakes import MakeX, MakeY


def wrong() -> object:
    return Switch(on="mode", cases={"a": Graph(make=MakeX()), "b": Graph(make=MakeY())})


EXPECTED = """WireError: cases  the cases have no output in common: a gives x; b gives y."""
