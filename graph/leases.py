"""The leases of a run: the components of a span of nodes, taken together and released together.

A run asks for all components of a span at once, while it holds no lease: so runs that wait for memory never wait for
each other.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .errors import Cancelled, Paused
from .fields import Lazy
from .lender import Lease, Lender
from .member import Member
from .requests import Requests
from .run_order import Line, run_order


def lenders(lines: Sequence[Line], bindings: Mapping[str, Any]) -> Mapping[Lender, list[Any]]:
    """The components that these lines may need and that have a lender, by lender."""
    by_lender: dict[Lender, dict[Any, None]] = {}
    for value in _components(lines, bindings):
        if isinstance(value, Lazy) and value.lender is not None:
            by_lender.setdefault(value.lender, {}).update(dict.fromkeys(value.leased))
    return {lender: list(values) for lender, values in by_lender.items()}


def _components(lines: Sequence[Line], bindings: Mapping[str, Any]) -> Iterator[Any]:
    for line in lines:
        inner = line.bindings_inside(bindings)
        for graph, outputs, *_ in line.insides:
            yield from _components(run_order(graph, outputs).lines, {**inner, **graph.adapted_bindings})
        yield from (bindings[name] for _, name in line.components if name in bindings)


class RunLeases:
    """The leases of one run. Each ends with its span; those that are left end with the run."""

    def __init__(self, owner: str, requests: Requests) -> None:
        self._owner = owner
        self._requests = requests
        self._leases: dict[int, list[Lease]] = {}
        self._next = 0
        self._waiting_for: Lender | None = None
        self.member: Member | None = None
        """Its place among runs side by side, which go on while it waits."""

    def take(self, lines: Sequence[Line], bindings: Mapping[str, Any], path: str) -> int:
        """Lease the components of these lines. Gives the number that `release` takes."""
        self._next += 1
        leases = self._leases[self._next] = []
        by_lender = lenders(lines, bindings)
        for lender in sorted(by_lender, key=id):  # one order for all runs, so that two managers cannot lock two runs
            self._waiting_for = lender
            owner, leave = f"{self._owner}{path}", self._requests.leave
            try:
                leases.append(lender.lease(by_lender[lender], owner, leave, self._let_others_go_on))
            except Cancelled:
                if self._requests.stop.is_set():
                    raise
                raise Paused(f"The run was paused while {path} waited for memory.") from None
            finally:
                if self.member is not None:
                    self.member.go_on()
        self._waiting_for = None
        return self._next

    def _let_others_go_on(self) -> None:
        if self.member is not None:
            self.member.wait_for_memory()

    def wake(self) -> None:
        """Wake the lender that the run waits for, so that it sees that the run is to stop."""
        if (lender := self._waiting_for) is not None:
            lender.wake()

    def release(self, number: int) -> None:
        """Release the leases of one span."""
        for lease in self._leases.pop(number, ()):
            lease.release()

    def release_all(self) -> None:
        """Release all leases that are left."""
        for number in list(self._leases):
            self.release(number)

    def outlast(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Keep the leases that are left until these functions are deleted: callers of the run may call them."""
        left = [lease for leases in self._leases.values() for lease in leases]
        self._leases.clear()
        if left and functions:
            last = _Last(left, len(functions))
            for function in functions:
                weakref.finalize(function, last.one_less).atexit = False
            return
        for lease in left:
            lease.release()


class _Last:
    def __init__(self, leases: Sequence[Lease], functions: int) -> None:
        self._leases, self._left = leases, functions

    def one_less(self) -> None:
        self._left -= 1
        if not self._left:
            for lease in self._leases:
                lease.release()
