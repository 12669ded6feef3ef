"""Who holds what, and who waits for room. Nobody polls, and nobody waits for ever."""

import gc
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from ...graph.errors import Cancelled, LoadError

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
        self._version = 0

    def take(self, asked: Sequence[H], owner: str, stop: threading.Event | None = None) -> Lease[H]:
        """A lease, once there is room. LoadError where there will be none; Cancelled if `stop` is set meanwhile."""
        lease, ticket, collected = Lease(self, asked, owner), object(), False
        with self._changed:
            try:
                while True:
                    seen = self._version
                    if stop is not None and stop.is_set():
                        raise Cancelled(f"The run was cancelled while {owner} waited for memory.")
                    mine = [held for held in self.all() if held.thread == lease.thread]
                    never = self._fits([asked, *(held.held for held in mine)])
                    first = bool(mine) or not self._line or self._line[0] is ticket
                    if not never and first and not self._fits([asked, *(held.held for held in self.all())]):
                        self._leases[id(lease)] = lease
                        return lease
                    if not collected:
                        collected = True
                        gc.collect()  # a run that nobody has any more gives back what it held
                    elif never:
                        raise LoadError(never + _told(mine))
                    else:
                        self._wait(lease, ticket, mine, seen)
            finally:
                if ticket in self._line:
                    self._line.remove(ticket)
                    self._changed.notify_all()  # the next in line may fit

    def _wait(self, lease: Lease[H], ticket: object, mine: Sequence[Lease[H]], seen: int) -> None:
        holders = {held.thread for held in self.all()}
        if mine and holders <= self._waiting | {lease.thread}:
            raise LoadError(
                f"{self._fits([lease.held, *(held.held for held in self.all())])}{_told(mine)} "
                "All other threads that hold memory wait for more, too."
            )
        if ticket not in self._line:
            self._line.append(ticket)
        self._waiting.add(lease.thread)
        try:
            if self._version == seen:
                self._changed.wait()
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
            self._version += 1
            self._changed.notify_all()

    def all(self) -> list[Lease[H]]:
        """The leases that stand."""
        with self._changed:
            self._settle()
            return list(self._leases.values())

    def _settle(self) -> None:
        while self._returned:
            lease = self._returned.popleft()
            if self._leases.pop(id(lease), None) is not None:
                self._version += 1
                self._ended(lease)


def _told(mine: Sequence[Lease[H]]) -> str:
    names = ", ".join(dict.fromkeys(lease.owner for lease in mine))
    return f" This thread holds memory for {names}: finish that run, or close() it." if names else ""
