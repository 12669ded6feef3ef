from typing import TYPE_CHECKING

from sfumato.graph import Block, Graph

from ..fakes import Y

if TYPE_CHECKING:
    from decimal import Decimal


class Pay(Block):
    def __call__(self, x: "Decimal") -> Y:
        return Y(int(x))


def wrong() -> object:
    return Graph(pay=Pay())


EXPECTED = """Malformed: Pay.__call__: name 'Decimal' is not defined. Import port types at run time, not under TYPE_CHECKING."""
