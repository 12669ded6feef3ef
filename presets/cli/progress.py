"""The progress of a command, on stderr: a bar on a terminal, and notes everywhere."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ...registry import printable
from .messages import print_note

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Shows the stage of a command and the events of its run, and keeps the run's notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._bar: Bar | None = None

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
        """Show the current work of the command."""
        if self._bar is not None:
            self._bar.update(self._bar.tasks[0].id, description=printable(text), **bar)

    def show(self, event: Any) -> None:  # an Event; importing its class takes the graph room
        """Show one event."""
        from ...graph import events

        match event:
            case events.ComponentLoaded(name=name):
                self.stage(f"loaded {name}")
            case events.TurnFinished(path, turn, turns):
                self.stage(path, completed=turn, total=turns, turns=f"{turn}/{turns}")
            case events.BlockStarted(path) if "." not in path:
                self.stage(path.replace("_", " "))
            case events.Note(text=text):
                self.notes.append(text)
                print_note("note", text)  # while the bar is shown, rich prints what goes to stderr above it
            case _:
                pass


def _bar() -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    texts = [TextColumn(text, markup=False) for text in ("{task.description:<16}", "{task.fields[turns]}")]
    return Bar(texts[0], BarColumn(), texts[1], TimeElapsedColumn(), console=Console(stderr=True), transient=True)
