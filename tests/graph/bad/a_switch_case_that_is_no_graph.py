from sfumato.graph import Switch

from ..fakes import MakeX


def wrong() -> object:
    return Switch(on="mode", cases={"a": MakeX()})  # type: ignore[dict-item]  # on purpose


EXPECTED = """WireError: cases.a  is MakeX, not a graph. Write 'a': Graph(name=block, …)."""
