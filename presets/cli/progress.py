"""The progress of a command: the bar that calls in Python have too, and notes on stderr."""

from typing import Any

from ...registry.progress import ProgressBar
from .messages import print_note


class Progress(ProgressBar):
    """Shows the stage of a command and the events of its run, and keeps the run's notes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self._run: Any = None

    def show(self, event: Any) -> None:  # an Event; importing its class takes the graph room
        """Show one event."""
        from ...graph.events import Note
        from ...graph.progress import RunProgress

        if isinstance(event, Note):
            self.notes.append(event.text)
            print_note("note", event.text)  # while the bar is shown, rich prints what goes to stderr above it
            return
        self._run = self._run or RunProgress(self)
        self._run.show(event)
