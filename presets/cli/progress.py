"""How a run looks while it goes on: a bar on a terminal, nothing but notes elsewhere. All of it on stderr."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .telling import note

if TYPE_CHECKING:
    from rich.progress import Progress


class Watch:
    """Shows what a command is doing and the events of its run, and keeps the run's notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = bar = _bar()
            bar.add_task("starting", total=None, turns="")
            bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, text: str, **bar: Any) -> None:  # what rich's Progress.update takes
        """Name what is going on."""
        if self._bar is not None:
            self._bar.update(self._bar.tasks[0].id, description=text, **bar)

    def see(self, event: Any) -> None:  # an Event; importing its class takes the graph room
        """Show one event."""
        match event.kind:
            case "load":
                self.stage(f"loaded {event.text}")
            case "turn":
                of = f"{event.turn}/{event.turns}"
                self.stage(event.path, completed=event.turn, total=event.turns, turns=of)
            case "start" if "." not in event.path:
                self.stage(event.path.replace("_", " "))
            case "note":
                self.notes.append(event.text)
                note("note", event.text)  # while the bar is shown, rich prints what goes to stderr above it
            case _:
                pass


def _bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<16}"), BarColumn(), TextColumn("{task.fields[turns]}"))
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
