from sfumato.graph import Block

from ..fakes import Y


def wrong() -> object:
    class ByPosition(Block):
        def __call__(self, x: int, /) -> Y:
            return Y(x)

    return ByPosition()


EXPECTED = """Malformed: ByPosition.__call__ takes 'x' by position only. Inputs are passed by name: remove the '/'."""
