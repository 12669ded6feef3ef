from sfumato.graph import Graph

from ..fakes import XToY, YToZ


def wrong() -> object:
    return Graph(double=XToY(), sum=YToZ())()


EXPECTED = """InputError: x  needs a value: int, read by double.x."""
