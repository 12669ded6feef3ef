from sfumato.graph import Switch


def wrong() -> object:
    return Switch(on="mode", cases={})


EXPECTED = """WireError: cases  is empty. Give at least one: cases={'name': Graph(…)}."""
