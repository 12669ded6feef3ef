"""Leases: which components are in use, and which threads wait for memory. A waiting thread neither polls nor waits
for ever."""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from ...graph.errors import Cancelled, LoadError
from ...graph.lender import Waits

_PATIENCE = 1.0  # seconds to wait for room before the garbage collector looks for leases that nothing refers to

H = TypeVar("H")
H_contra = TypeVar("H_contra", contravariant=True)


class Shortage(Protocol[H_contra]):
    """Whether the components of some leases fit in memory together: "" if they do, else the error text.

    leases: the components of each lease.
    """

    def __call__(self, leases: Sequence[Sequence[H_contra]], /) -> str:
        """The error text; "" if all fit."""
        ...


class Lease(Generic[H]):
    """The right to use some components: they stay in memory until it is released.

    Any thread may release it, any number of times. Used as a context manager, it is released at the end of the block.
    """

    def __init__(self, leases: "Leases[H]", components: Sequence[H], owner: str) -> None:
        self.components, self.owner = tuple(components), owner
        self.thread = threading.get_ident()
        self.since = time.monotonic()
        self._leases = leases

    def release(self) -> None:
        """Give the components back."""
        self._leases.release(self)

    def __enter__(self) -> "Lease[H]":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases(Generic[H]):
    """The leases of a manager, and the queue of threads that wait for one.

    A lease is granted for all its components or not at all. Threads that wait are served in order. A thread that holds
    a lease already goes first, since the others may wait for what it holds. If such threads would wait for each other,
    the last of them gets an error.

    shortage: whether leases fit together. ended: called once for each lease that has ended, under the lock.
    """

    def __init__(self, shortage: Shortage[H], ended: Callable[[Lease[H]], None]) -> None:
        self._shortage, self._ended = shortage, ended
        # Reentrant: the garbage collector may release a lease in the middle of anything.
        self._changed = threading.Condition(threading.RLock())
        self._leases: dict[int, Lease[H]] = {}
        self._queue: list[object] = []
        self._waiting: set[int] = set()
        self._released: deque[Lease[H]] = deque()

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """While it is held, no lease is granted and none ends. Do not hold it for long."""
        return self._changed

    def acquire(
        self, components: Sequence[H], owner: str, stop: threading.Event | None = None, waits: Waits = None
    ) -> Lease[H]:
        """A lease of these components, as soon as there is room. `waits` is called each time before it waits.

        Raises:
            LoadError: there will never be room.
            Cancelled: `stop` was set while it waited.
        """
        lease, ticket, collected = Lease(self, components, owner), object(), False
        with self._changed:
            try:
                while self._blocked(lease, ticket):
                    if stop is not None and stop.is_set():
                        raise Cancelled(f"The run was cancelled while {owner} waited for memory.")
                    never = self._never_fits(lease)
                    if waits is not None and not never:
                        waits()
                    if not collected and (never or not self._wait(lease, ticket, _PATIENCE)):
                        collected = True
                        gc.collect()  # a run that was left unfinished and that nothing refers to releases its leases
                    elif never:
                        raise LoadError(never)
                    elif collected:
                        self._wait(lease, ticket)
                self._leases[id(lease)] = lease
                return lease
            finally:
                if ticket in self._queue:
                    self._queue.remove(ticket)
                    self._changed.notify_all()  # the next in the queue may fit

    def _of_same_thread(self, lease: Lease[H]) -> list[Lease[H]]:
        return [other for other in self.active() if other.thread == lease.thread]

    def _shortage_with(self, lease: Lease[H], others: Sequence[Lease[H]]) -> str:
        return self._shortage([lease.components, *(other.components for other in others)])

    def _blocked(self, lease: Lease[H], ticket: object) -> str:
        """Why the lease cannot be granted now; "" if it can."""
        first = not self._queue or self._queue[0] is ticket
        if not first and not self._of_same_thread(lease):
            return "others are before it in the queue"
        return self._shortage_with(lease, self.active())

    def _never_fits(self, lease: Lease[H]) -> str:
        """Why waiting would not help; "" if it may."""
        own = self._of_same_thread(lease)
        if shortage := self._shortage_with(lease, own):
            return shortage + _own_leases(own)
        if own and {other.thread for other in self.active()} <= self._waiting | {lease.thread}:
            shortage = self._shortage_with(lease, self.active())
            return f"{shortage}{_own_leases(own)} All other threads that hold memory wait for more, too."
        return ""

    def _wait(self, lease: Lease[H], ticket: object, seconds: float | None = None) -> bool:
        """Wait in the queue for a change, or for so many seconds. Whether there was a change."""
        if ticket not in self._queue:
            self._queue.append(ticket)
        self._waiting.add(lease.thread)
        try:
            return self._changed.wait(seconds)
        finally:
            self._waiting.discard(lease.thread)

    def release(self, lease: Lease[H]) -> None:
        """End a lease."""
        self._released.append(lease)
        with self._changed:
            self._process_released()
            self._changed.notify_all()

    def wake(self) -> None:
        """Have waiting threads check again, because something other than a lease has changed."""
        with self._changed:
            self._changed.notify_all()

    def active(self) -> list[Lease[H]]:
        """The leases that have not ended, oldest first."""
        with self._changed:
            self._process_released()
            return list(self._leases.values())

    def held_by_this_thread(self, component: H) -> bool:
        """Whether the current thread has a lease of a component."""
        thread = threading.get_ident()
        return any(lease.thread == thread and component in lease.components for lease in self.active())

    def _process_released(self) -> None:
        while self._released:
            lease = self._released.popleft()
            if self._leases.pop(id(lease), None) is not None:
                self._ended(lease)


def _own_leases(leases: Sequence[Lease[H]]) -> str:
    names = ", ".join(dict.fromkeys(lease.owner for lease in leases))
    return f" This thread holds memory for {names}: finish that run, or close() it." if names else ""
