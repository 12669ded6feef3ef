from sfumato.graph import Block

from ..fakes import Y


def wrong() -> object:
    class Bare(Block):
        def __call__(self, x) -> Y:  # type: ignore[no-untyped-def]  # on purpose
            return Y(x)

    return Bare()


EXPECTED = """Malformed: Bare.__call__ has no type for 'x'. Write one, for example `x: float`."""
