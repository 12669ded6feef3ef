from sfumato.graph import Block


def wrong() -> object:
    class Plain(Block):
        def __call__(self, x: int) -> tuple[int, str]:
            return x, ""

    return Plain()


EXPECTED = """Malformed: Plain.__call__ returns tuple[int, str], but outputs need names: return a NamedTuple. Write: def __call__(self, latents: Latents) -> Scaled: ...   # class Scaled(NamedTuple): latents: Latents"""
