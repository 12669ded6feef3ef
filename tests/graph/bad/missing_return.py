from sfumato.graph import Block

from ..fakes import Y


def wrong() -> object:
    class Silent(Block):
        def __call__(self, x: int):  # type: ignore[no-untyped-def]  # on purpose
            return Y(x)

    return Silent()


EXPECTED = """Malformed: Silent.__call__ has no return type. Return a NamedTuple, one field per output. Write: def __call__(self, latents: Latents) -> Scaled: ...   # class Scaled(NamedTuple): latents: Latents"""
