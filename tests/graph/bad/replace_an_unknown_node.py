from sfumato.graph import Graph

from ..fakes import MakeX, XToY


def wrong() -> object:
    return Graph(encode=MakeX(), denoise=XToY()).replace("denoize", XToY())


EXPECTED = """WireError: denoize  no such node. Did you mean 'denoise'? There are: encode, denoise."""
