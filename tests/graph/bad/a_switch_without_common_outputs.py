from sfumato.graph import Graph, Switch

from ..fakes import MakeX, MakeY


def wrong() -> object:
    return Switch(on="mode", cases={"a": Graph(make=MakeX()), "b": Graph(make=MakeY())})


EXPECTED = """WireError: cases  no output is given by every case, so nothing could be read: a gives x; b gives y."""
