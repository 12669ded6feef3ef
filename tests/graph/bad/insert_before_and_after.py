from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).insert("add", Add(), before="double", after="make")


EXPECTED = """WireError: add  both before='double' and after='make' are given. Give one."""
