"""The progress of a run, shown by a bar."""

import time

from ..registry.progress import ProgressBar
from .events import BlockStarted, ComponentLoaded, Event, TurnFinished


class RunProgress:
    """Shows the events of a run on a bar: the block that runs, and the turns of the innermost loop."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._loop, self._first, self._began = "", 0, 0.0

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case TurnFinished(path=path, turn=turn, turns=turns):
                self._bar.stage(path, turn, turns, self._speed(path, turn))
            case BlockStarted(path=path) if "." not in path:
                self._bar.stage(path.replace("_", " "))
            case ComponentLoaded(name=name):
                self._bar.stage(f"loaded {name}")
            case _:
                pass

    def _speed(self, loop: str, turn: int) -> str:
        """Turns a second, or seconds a turn, since the first turn of this loop: the one that loads and warms up."""
        now = time.perf_counter()
        if loop != self._loop or turn <= 1:
            self._loop, self._began, self._first = loop, now, turn
            return ""
        seconds = (now - self._began) / (turn - self._first)
        return f"{seconds:.1f} s each" if seconds >= 1 else f"{1 / max(seconds, 1e-9):.1f}/s"
