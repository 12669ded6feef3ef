"""Runs side by side: what they share, in which order they go on, how they fail, join, leave and wait."""

import threading
import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import pytest

import sfumato as sf
from sfumato.graph import Block, Graph, Run, Running
from sfumato.graph.events import TurnFinished
from sfumato.graph.ports import ALONE

from .fakes import X, loop

SHARED: list[tuple[int, ...]] = []
"""The requests that were answered in one call, in order; a test clears it first."""
NAME: ContextVar[str] = ContextVar("NAME", default="nobody")


def answer(requests: Sequence[int]) -> Sequence[int]:
    """Twice each number. It refuses negative ones."""
    SHARED.append(tuple(requests))
    if any(request < 0 for request in requests):
        raise ValueError(f"a negative number among {len(requests)}")
    return [2 * request for request in requests]


class Ask(Block):
    """Adds what runs side by side compute together."""

    key: str = ""

    def __call__(self, x: int, item: int, running: Running = ALONE) -> X:
        key: Hashable = self.key
        return X(x + running.shared(key, item, answer))


class WhoAmI(Block):
    def __call__(self, x: int) -> X:
        SEEN.append((NAME.get(), threading.current_thread() is threading.main_thread()))
        return X(x)


SEEN: list[tuple[str, bool]] = []


@pytest.fixture(autouse=True)
def _nothing_shared() -> None:  # pyright: ignore[reportUnusedFunction]  a fixture
    SHARED.clear()
    SEEN.clear()


def asking(*items: int, key: str = "") -> Run:
    return Graph(loop=loop(ask=Ask(key=key))).stream(x=0, items=items)


def no_thread_is_left() -> None:
    for thread in threading.enumerate():
        if thread.name == "sfumato run":
            thread.join(10)
            assert not thread.is_alive()


def test_runs_are_brought_to_their_ends_and_share_what_they_ask_at_one_moment() -> None:
    runs = [asking(1, 2, 3), asking(10, 20), asking(100)]
    assert sf.together(runs) is None
    assert [run.outputs.x for run in runs] == [12, 60, 200]
    assert SHARED == [(1, 10, 100), (2, 20), (3,)]


def test_unlike_keys_share_nothing() -> None:
    runs = [asking(1, 2, key="a"), asking(3, 4, key="b"), asking(5, 6, key="a")]
    sf.together(runs)
    assert [run.outputs.x for run in runs] == [6, 14, 22]
    assert SHARED == [(1, 5), (3,), (2, 6), (4,)]


def test_a_run_alone_asks_alone() -> None:
    assert asking(1, 2).result().x == 6
    assert Ask()(1, 2).x == 5
    assert SHARED == [(1,), (2,), (2,)]


def test_no_runs_are_done_at_once_and_a_run_that_has_ended_keeps_its_outputs() -> None:
    sf.together([])
    run = asking(1)
    run.result()
    sf.together([run])
    assert run.outputs.x == 2


def test_a_run_goes_on_from_where_its_iteration_stood() -> None:
    run, other = asking(1, 2, 3), asking(7, 8)
    for event in run:
        if isinstance(event, TurnFinished):
            break
    sf.together([run, other])
    assert (run.outputs.x, other.outputs.x) == (12, 30)
    assert SHARED == [(1,), (2, 7), (3, 8)]


def test_threads_see_the_context_of_whoever_adds_the_run() -> None:
    NAME.set("a user")
    sf.together([Graph(who=WhoAmI()).stream(x=1), Graph(who=WhoAmI()).stream(x=2)])
    assert SEEN == [("a user", False)] * 2
    no_thread_is_left()


# ------------------------------------------------------------------------------------------------ failing
def test_a_run_that_fails_does_not_stop_the_others() -> None:
    runs = [asking(1, 2), asking(3, -4, 5), asking(6, 7)]
    with pytest.raises(ExceptionGroup, match="1 of 3 runs failed") as caught:
        sf.together(runs)
    (error,) = caught.value.exceptions
    assert isinstance(error, ValueError) and str(error) == "a negative number among 1"
    assert "  in 'loop.ask' (Ask)" in error.__notes__
    assert (runs[0].outputs.x, runs[2].outputs.x) == (6, 26)
    assert SHARED == [(1, 3, 6), (2, -4, 7), (2,), (-4,), (7,)]  # alone after what they shared had failed
    with pytest.raises(sf.GraphError, match="has no outputs"):
        _ = runs[1].outputs


def test_a_run_that_is_cancelled_leaves_and_the_others_go_on() -> None:
    runs = [asking(1, 2, 3), asking(10, 20, 30)]
    runs[1].cancel()
    sf.together(runs)
    assert runs[0].outputs.x == 12
    assert SHARED == [(1,), (2,), (3,)]


class CancelsAnother(Block):
    """Cancels a run that waits for an answer."""

    def __call__(self, x: int, item: int) -> X:
        if item == 2:
            OTHERS[0].cancel()
        return X(x)


OTHERS: list[Run] = []


def test_a_run_is_cancelled_while_it_waits_for_an_answer() -> None:
    OTHERS[:] = [asking(10, 20, 30)]
    runs = [*OTHERS, Graph(loop=loop(cancels=CancelsAnother(), ask=Ask())).stream(x=0, items=(1, 2, 3))]
    sf.together(runs)
    assert runs[1].outputs.x == 12
    assert SHARED == [(10, 1), (2,), (3,)]


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(sf.InputError) as caught:
        sf.together([asking(1).result()])  # pyright: ignore[reportArgumentType]  the mistake
    assert str(caught.value) == "runs  needs runs, got Outputs(x) (Outputs). Make each run with graph.stream(…)."
    run = asking(1)
    with pytest.raises(sf.GraphError, match=r"goes on side by side with others already\. Pass each run once\."):
        sf.together([run, run])
    assert run.result().x == 2


class Interrupts(Block):
    def __call__(self, x: int, item: int, running: Running = ALONE) -> X:
        return X(running.shared("interrupt", x, _interrupted))


def _interrupted(requests: Sequence[int]) -> Sequence[int]:
    raise KeyboardInterrupt


def test_ctrl_c_ends_all_runs() -> None:
    runs = [asking(*range(50)), Graph(loop=loop(ask=Interrupts())).stream(x=0, items=[1])]
    with pytest.raises(KeyboardInterrupt):
        sf.together(runs)
    assert len(SHARED) == 1
    no_thread_is_left()


# ------------------------------------------------------------------------------------------------ joining
class Adds(Block):
    """Adds a run to the group in the second turn."""

    def __call__(self, x: int, item: int) -> X:
        if item == 2:
            GROUPS[0].add(OTHERS[0])
        return X(x)


GROUPS: list[sf.RunGroup] = []


def test_an_iterator_of_runs_is_read_when_a_run_can_begin() -> None:
    made: list[int] = []
    most: list[int] = []
    ended: list[Run] = []

    def runs() -> Iterator[Run]:
        for number in range(5):
            made.append(number)
            most.append(len(made) - len(ended))
            yield asking(number)

    sf.RunGroup(runs(), 2, ended.append).advance()
    assert [run.outputs["x"] for run in ended] == [0, 2, 4, 6, 8]
    assert max(most) == 2


def test_a_function_gets_the_runs_that_have_ended_in_place_of_an_error() -> None:
    ended: list[Run] = []
    sf.RunGroup([asking(1), asking(-1)], on_end=ended.append).advance()
    assert [type(run.error) for run in ended] == [type(None), ValueError]


def test_ctrl_c_begins_no_other_run() -> None:
    def stop(run: Run) -> None:
        raise KeyboardInterrupt

    later = [asking(1), asking(2), asking(3)]
    group = sf.RunGroup(later, 1, stop)
    with pytest.raises(KeyboardInterrupt):
        group.advance()
    assert [run.is_cancelled for run in later] == [False, True, True]
    group.advance()
    assert len(SHARED) == 1
    no_thread_is_left()


def test_a_run_joins_while_others_go_on_and_may_stay_longer() -> None:
    OTHERS[:] = [asking(10, 20, 30)]
    first = Graph(loop=loop(adds=Adds(), ask=Ask())).stream(x=0, items=(1, 2, 3))
    GROUPS[:] = [sf.RunGroup([first])]
    GROUPS[0].advance()
    assert (first.outputs.x, OTHERS[0].outputs.x) == (12, 120)
    assert SHARED == [(1,), (2, 10), (3, 20), (30,)]
    GROUPS[0].add(late := asking(4))
    GROUPS[0].advance()
    assert late.outputs.x == 8


class Gate(Block):
    """Waits until it is open."""

    def __call__(self, x: int) -> X:
        assert GATE.wait(10)
        return X(x)


GATE = threading.Event()


def test_a_run_with_its_own_thread_joins_when_it_needs_an_answer() -> None:
    GATE.clear()
    started = Graph(gate=Gate(), loop=loop(ask=Ask())).start(x=0, items=[1, 2])
    ended = asking(5).start()
    ended.result()
    SHARED.clear()
    other = asking(10, 20)
    opens = threading.Timer(0.05, GATE.set)
    opens.start()
    sf.together([started, other, ended])
    assert (started.result().x, other.result().x, ended.outputs.x) == (6, 60, 10)
    assert SHARED == [(1, 10), (2, 20)]
    opens.join()


def test_a_run_that_is_paused_leaves_and_goes_on_later() -> None:
    OTHERS[:] = [asking(10, 20, 30)]
    runs = [*OTHERS, Graph(loop=loop(pauses=PausesAnother(), ask=Ask())).stream(x=0, items=(1, 2, 3))]
    sf.together(runs)
    assert runs[1].outputs.x == 12
    assert SHARED == [(10, 1), (20, 2), (3,)]
    assert isinstance(runs[0].error, sf.Paused)
    assert max(runs[0].state.steps["loop"]) == 2


class PausesAnother(Block):
    def __call__(self, x: int, item: int) -> X:
        if item == 2:
            threading.Thread(target=OTHERS[0].pause).start()
            while not OTHERS[0]._execution.requests.pause:  # pyright: ignore[reportPrivateUsage]
                pass
        return X(x)


# ------------------------------------------------------------------------------------------------ one at a time
@dataclass
class Busy:
    """Counts the threads inside."""

    now: int = 0
    most: int = 0
    order: list[int] = field(default_factory=list[int])


BUSY = Busy()


class Works(Block):
    number: int = 0

    def __call__(self, x: int, item: int) -> X:
        BUSY.now += 1
        BUSY.most = max(BUSY.most, BUSY.now)
        BUSY.order.append(self.number)
        sum(range(3000))
        BUSY.now -= 1
        return X(x)


def test_one_thread_computes_at_a_time_in_the_order_of_the_runs() -> None:
    BUSY.order.clear()
    runs = [Graph(loop=loop(work=Works(number=n), ask=Ask())).stream(x=0, items=[1, 2]) for n in range(8)]
    sf.together(runs)
    assert BUSY.most == 1
    assert BUSY.order == [*range(8), *range(8)]


def test_notes_of_runs_become_warnings() -> None:
    class Warns(Block):
        def __call__(self, x: int, running: Running) -> X:
            running.note("look here")
            return X(x)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sf.together([Graph(warns=Warns()).stream(x=1)])
    assert [str(one.message) for one in caught] == ["look here"]
