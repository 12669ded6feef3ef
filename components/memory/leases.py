"""Who holds what, and who waits for room. Nobody polls, and nobody waits for ever."""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from ...graph.errors import Cancelled, LoadError

_PATIENCE = 1.0  # seconds to wait for room before looking whether it is held by what nobody can reach

H = TypeVar("H")
H_contra = TypeVar("H_contra", contravariant=True)


class Fits(Protocol[H_contra]):
    """Whether components can be in memory together: "" if so, else what there is not enough of, and the way out.

    Each list is what one lease holds.
    """

    def __call__(self, held: Sequence[Sequence[H_contra]]) -> str: ...


class Lease(Generic[H]):
    """Components that stay until it is released; from any thread, and once is enough."""

    def __init__(self, table: "Leases[H]", held: Sequence[H], owner: str) -> None:
        self.held, self.owner = tuple(held), owner
        self.thread = threading.get_ident()
        self.since = time.monotonic()
        self._table = table

    def release(self) -> None:
        self._table.give_back(self)

    def __enter__(self) -> "Lease[H]":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases(Generic[H]):
    """The leases of a manager.

    What is asked for is granted whole or not at all. Those that have to wait stand in line, the first to come first. A
    thread that holds something already goes before them, since they may be waiting for what it holds; if such threads
    would wait for each other, the last of them gets an error.
    """

    def __init__(self, fits: Fits[H], ended: Callable[[Lease[H]], None]) -> None:
        self._fits, self._ended = fits, ended
        # Reentrant: a lease may be released by the garbage collector, in the middle of anything.
        self._changed = threading.Condition(threading.RLock())
        self._leases: dict[int, Lease[H]] = {}
        self._line: list[object] = []
        self._waiting: set[int] = set()
        self._returned: deque[Lease[H]] = deque()

    @property
    def still(self) -> AbstractContextManager[Any]:
        """While it is entered, nobody leases anything or gives it back. Not for long."""
        return self._changed

    def take(self, asked: Sequence[H], owner: str, stop: threading.Event | None = None) -> Lease[H]:
        """A lease, once there is room. LoadError where there will be none; Cancelled if `stop` is set meanwhile."""
        lease, ticket, patient = Lease(self, asked, owner), object(), True
        with self._changed:
            try:
                while self._obstacle(lease, ticket):
                    if stop is not None and stop.is_set():
                        raise Cancelled(f"The run was cancelled while {owner} waited for memory.")
                    never = self._never(lease)
                    if patient and (never or not self._wait(lease, ticket, _PATIENCE)):
                        patient = False
                        gc.collect()  # a run that was left half way gives back what it held, if nobody has it any more
                    elif never:
                        raise LoadError(never)
                    elif not patient:
                        self._wait(lease, ticket)
                return self._granted(lease)
            finally:
                if ticket in self._line:
                    self._line.remove(ticket)
                    self._changed.notify_all()  # the next in line may fit

    def _granted(self, lease: Lease[H]) -> Lease[H]:
        self._leases[id(lease)] = lease
        return lease

    def _mine(self, lease: Lease[H]) -> list[Lease[H]]:
        return [held for held in self.all() if held.thread == lease.thread]

    def _obstacle(self, lease: Lease[H], ticket: object) -> str:
        """Why it cannot be granted now; "" where it can."""
        first = not self._line or self._line[0] is ticket
        if not first and not self._mine(lease):
            return "others are before it"
        return self._fits([lease.held, *(held.held for held in self.all())])

    def _never(self, lease: Lease[H]) -> str:
        """Why waiting would not help; "" where it may."""
        mine = self._mine(lease)
        if lack := self._fits([lease.held, *(held.held for held in mine)]):
            return lack + _told(mine)
        if mine and {held.thread for held in self.all()} <= self._waiting | {lease.thread}:
            lack = self._fits([lease.held, *(held.held for held in self.all())])
            return f"{lack}{_told(mine)} All other threads that hold memory wait for more, too."
        return ""

    def _wait(self, lease: Lease[H], ticket: object, seconds: float | None = None) -> bool:
        """Until something has changed, which is told, or for so many seconds."""
        if ticket not in self._line:
            self._line.append(ticket)
        self._waiting.add(lease.thread)
        try:
            return self._changed.wait(seconds)
        finally:
            self._waiting.discard(lease.thread)

    def give_back(self, lease: Lease[H]) -> None:
        self._returned.append(lease)
        with self._changed:
            self._settle()
            self._changed.notify_all()

    def wake(self) -> None:
        """Have those that wait look again: something else has changed."""
        with self._changed:
            self._changed.notify_all()

    def all(self) -> list[Lease[H]]:
        """The leases that stand."""
        with self._changed:
            self._settle()
            return list(self._leases.values())

    def held_here(self, one: H) -> bool:
        """Whether this thread has leased it."""
        me = threading.get_ident()
        return any(lease.thread == me and one in lease.held for lease in self.all())

    def _settle(self) -> None:
        while self._returned:
            lease = self._returned.popleft()
            if self._leases.pop(id(lease), None) is not None:
                self._ended(lease)


def _told(mine: Sequence[Lease[H]]) -> str:
    names = ", ".join(dict.fromkeys(lease.owner for lease in mine))
    return f" This thread holds memory for {names}: finish that run, or close() it." if names else ""
