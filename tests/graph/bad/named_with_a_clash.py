from sfumato.graph import named

from ..fakes import Sum


def wrong() -> object:
    return named(Sum(), x="y")


EXPECTED = """WireError: y  two ports of Sum would be called so. Choose another name."""
