"""Lenders: objects that lease components to runs."""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Any, Protocol

Waits = Callable[[], None] | None
"""A function that a lender calls each time before it waits."""


class Lease(Protocol):
    """A right to use components. They stay where they are until it is released."""

    def release(self) -> None:
        """End the lease. A second call does nothing."""


class Lender(Protocol):
    """An object that moves components in and out of memory, such as a `ComponentsManager`."""

    def lease(self, components: Sequence[Any], owner: str, stop: Event | None = None, waits: Waits = None) -> Lease:
        """Make sure that these can be in memory together until the lease ends; waits for other runs if need be.

        Calls `waits` each time before it waits. Raises `Cancelled` if `stop` is set while it waits; `wake` makes it
        look at `stop`.
        """
        ...

    def wake(self) -> None:
        """Make all that wait look at their `stop`."""
