from sfumato.graph import Graph

from ..fakes import Add, MakeX, XToY


def wrong() -> object:
    return Graph(make=MakeX(), double=XToY()).insert("add", Add(), before="double", after="make")


EXPECTED = """WireError: add  got both before='double' and after='make'. Pass one."""
