"""What a run holds: the components of a stretch of nodes, taken together and given back together.

A stretch is a node with all nodes that may call functions it gave; where two overlap they are one. What a stretch
needs is asked for at once, by a run that holds nothing: so runs that wait for memory never wait for each other.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol

from .block import Lazy
from .graph import Graph
from .loop import Loop
from .plan import Line, Plan, plan_of, turn_plans
from .switch import Switch


class Lease(Protocol):
    """Components that stay where they are until it is released."""

    def release(self) -> None:
        """Give them back. A second time does nothing."""


class Lender(Protocol):
    """Who moves components in and out of memory. `ComponentsManager` is one."""

    def lease(self, components: Sequence[Any], owner: str, stop: Event | None = None) -> Lease:
        """See to it that these can be in memory together until the lease ends; waits for other runs if need be.

        Raises `Cancelled` if `stop` is set while it waits; `wake` makes it look.
        """
        ...

    def wake(self) -> None:
        """Have those that wait look at their `stop`."""


@dataclass(frozen=True)
class Stretch:
    """Lines of a plan that hold their components together; `last` is the place of its end in the plan."""

    lines: tuple[Line, ...]
    last: int
    lasting: bool
    """Whether functions leave the plan, so that the stretch ends where they do."""

    whole: bool
    """Whether it is held as one. A graph by itself is taken apart, so that its nodes hold one after another."""


def stretches(plan: Plan) -> Mapping[str, Stretch]:
    """The stretch of each line of a plan that may need components, by its name; from the plan's own cache."""
    if "stretches" not in plan.known:
        plan.known["stretches"] = _stretches(plan)
    return plan.known["stretches"]


def _stretches(plan: Plan) -> dict[str, Stretch]:
    place = {line.name: i for i, line in enumerate(plan.lines)}
    found: dict[str, Stretch] = {}
    begin = 0
    while begin < len(plan.lines):
        at, last, lasting = begin, begin, False
        while at <= last:
            line = plan.lines[at]
            if line.makes_function:
                lasting = lasting or line.until not in place
                last = max(last, place.get(line.until, len(plan.lines) - 1))
            at += 1
        lines = plan.lines[begin : last + 1]
        if any(line.needs or line.block.children() for line in lines):
            stretch = Stretch(lines, last, lasting, len(lines) > 1 or lasting or _whole(plan.lines[begin]))
            found |= dict.fromkeys((line.name for line in lines), stretch)
        begin = last + 1
    return found


def _whole(line: Line) -> bool:
    block = line.block
    if isinstance(block, Loop):
        return turn_plans(block.body, block.each, block.carry)[0].makes_function
    return not isinstance(block, Graph | Switch)


def lenders(lines: Sequence[Line], bound: Mapping[str, Any]) -> Mapping[Lender, list[Any]]:
    """The components that these lines may ask for and somebody lends, by who does."""
    found: dict[Lender, dict[Any, None]] = {}
    for value in _components(lines, bound):
        if isinstance(value, Lazy) and value.lender is not None:
            found.setdefault(value.lender, {})[value] = None
    return {lender: list(values) for lender, values in found.items()}


def _components(lines: Sequence[Line], bound: Mapping[str, Any]) -> Iterator[Any]:
    for line in lines:
        block = line.block
        inner = {name: bound[outer] for name, outer in line.names.items() if outer in bound}
        match block:
            case Graph():
                yield from _inside(block, block.declared or tuple(block.outputs), inner)
            case Loop():
                yield from _inside(block.body, block.carry, inner)
            case Switch():
                for case in block.children().values():
                    yield from _inside(case, tuple(block.signature.outputs), inner)  # type: ignore[arg-type]  # its children are graphs
            case _:
                yield from (bound[name] for _, name in line.needs if name in bound)


def _inside(graph: Graph, outputs: tuple[str, ...], bound: Mapping[str, Any]) -> Iterator[Any]:
    return _components(plan_of(graph, outputs).lines, {**bound, **graph.bindings})


class Held:
    """The leases of one run. They end with their stretch; all that are left end with the run."""

    def __init__(self, owner: str, stop: Event) -> None:
        self._owner = owner
        self._stop = stop
        self._leases: dict[int, list[Lease]] = {}
        self._next = 0
        self._asked: Lender | None = None

    def take(self, lines: Sequence[Line], bound: Mapping[str, Any], path: str) -> int:
        """Lease what these lines need. Gives the number to give it back by."""
        self._next += 1
        mine = self._leases[self._next] = []
        asked = lenders(lines, bound)
        for lender in sorted(asked, key=id):  # one order for all runs, so that two managers cannot lock two runs
            self._asked = lender
            mine.append(lender.lease(asked[lender], f"{self._owner}{path}", self._stop))
        self._asked = None
        return self._next

    def wake(self) -> None:
        """The run was asked to stop: if it waits for a lease, let it see that."""
        if (asked := self._asked) is not None:
            asked.wake()

    def give_back(self, number: int) -> None:
        for lease in self._leases.pop(number, ()):
            lease.release()

    def give_back_all(self) -> None:
        for number in list(self._leases):
            self.give_back(number)

    def outlast(self, functions: Sequence[Callable[..., Any]]) -> None:
        """Keep what is left until the last of these functions is gone: they were given out and may be called."""
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
