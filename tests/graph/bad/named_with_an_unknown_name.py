from sfumato.graph import named

from ..fakes import XToY


def wrong() -> object:
    return named(XToY(), latent="x2")


EXPECTED = """WireError: latent  is no input, output or component of XToY, so it cannot be renamed. There are: x, y."""
