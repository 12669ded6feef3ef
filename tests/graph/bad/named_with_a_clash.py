from sfumato.graph import named

from ..fakes import Sum


def wrong() -> object:
    return named(Sum(), x="y")


EXPECTED = """WireError: y  is the new name of two ports of Sum. Choose another name."""
