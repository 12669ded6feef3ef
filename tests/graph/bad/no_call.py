from sfumato.graph import Block


def wrong() -> object:
    class Nothing(Block):
        scale: float = 1.0

    return Nothing()


EXPECTED = """Malformed: Nothing has no __call__. Write what it does: def __call__(self, …) -> Result"""
