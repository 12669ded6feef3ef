"""Events of a run, as values."""

from collections.abc import Generator, Mapping
from typing import Any, Literal, NamedTuple


class Event(NamedTuple):
    """Something that happened in a run, and the path of the node ("denoise.guider") that it happened in.

    "start" and "done" of a node (`seconds` it took), "load" of a component (its name as `text`), "turn" of a loop or a
    map (`turn` of `turns`, and its results so far as `values`), "reused" of a node whose outputs are from the memo
    (with the `seconds` that it took then), and "note": a `text` for the user.
    """

    kind: Literal["start", "done", "load", "turn", "reused", "note"]
    path: str
    seconds: float = 0.0
    turn: int = 0
    turns: int = 0
    values: Mapping[str, Any] = {}
    text: str = ""


Events = Generator[Event, None, dict[str, Any]]
"""Events of a part of a run, and its outputs at the end."""
