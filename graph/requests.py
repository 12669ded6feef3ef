"""Requests that threads make to a run: to cancel, to pause, to finish now. The run reads them between its blocks."""

import threading

from .errors import Cancelled


class Requests:
    """The requests to one run."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the run was cancelled."""
        self.leave = threading.Event()
        """Set when the run was cancelled or paused, so that it does not wait for memory."""
        self.pause = False
        """Whether the run stops where nothing of its work is lost: before a block, or after a turn."""
        self.another_turn = False
        """Whether a block of the present turn has read that another turn follows."""
        self._finish = False
        self._finishing = False

    def cancelled(self) -> None:
        """Request that the run stops before its next block or pass."""
        self.stop.set()
        self.leave.set()

    def paused(self) -> None:
        """Request a pause."""
        self.pause = True
        self.leave.set()

    def finish_now(self) -> None:
        """Request that each loop ends with its present turn."""
        self._finish = True

    def check(self) -> None:
        """Raise `Cancelled` if the run was cancelled."""
        if self.stop.is_set():
            raise Cancelled("The run was cancelled.")

    @property
    def finishing(self) -> bool:
        """Whether the present turn is the last of its loop. All blocks of a turn read the same."""
        if not self._finishing:
            self._finishing = self._finish and not self.another_turn
            self.another_turn = not self._finishing
        return self._finishing

    @property
    def finished_early(self) -> bool:
        """Whether loops ended before their last turn."""
        return self._finishing
