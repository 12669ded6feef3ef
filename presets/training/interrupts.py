"""Ctrl-C during a training: it is noted, so that a checkpoint can be saved before the end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """Note SIGINT and SIGTERM while the context is open. A second Ctrl-C raises KeyboardInterrupt at once.

    In other threads than the main one nothing changes, because Python gives signals to the main thread only.
    """

    def __init__(self) -> None:
        self.noted = False
        """Whether one was sent."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted:
            raise KeyboardInterrupt
        self.noted = True
