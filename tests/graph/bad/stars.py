from sfumato.graph import Block

from ..fakes import Y


def wrong() -> object:
    class Stars(Block):
        def __call__(self, *images: int) -> Y:
            return Y(len(images))

    return Stars()


EXPECTED = """Malformed: Stars.__call__ takes *images, but each input needs a name and a type. Write: def __call__(self, latents: Latents) -> Scaled: ...   # class Scaled(NamedTuple): latents: Latents"""
