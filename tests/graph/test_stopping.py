"""Runs in threads: started, cancelled, paused, finished early; what they hold is given back."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

import sfumato as sf
from sfumato.graph import Block, Cancelled, Graph, GraphError, Lazy, Map, Paused, Running, component
from sfumato.graph.events import BlockStarted, TurnFinished
from sfumato.graph.lender import Waits
from sfumato.graph.ports import ALONE

from .fakes import AddItem, Boom, MakeX, Notes, Tool, X, XToY, Y, loop


class Gate(Block):
    """Tells that it runs, and waits until it may go on."""

    at: int = -1  # the item at which it waits; -1 for each

    def __call__(self, x: int, item: int = -1) -> X:
        if self.at in (-1, item):
            REACHED.set()
            assert GO_ON.wait(10)
        return X(x)


REACHED, GO_ON = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def gates() -> None:
    REACHED.clear()
    GO_ON.clear()


def opened_after(request: Callable[[], Any], seconds: float = 0.05) -> Any:
    """Make a request to a run that waits at the gate, and open the gate soon after."""
    assert REACHED.wait(10)
    timer = threading.Timer(seconds, GO_ON.set)
    timer.start()
    try:
        return request()
    finally:
        timer.join()


class Clean(Block):
    """A step that gives a clean value in the last turn of a run that finishes now."""

    def __call__(self, x: int, item: int, running: Running = ALONE) -> X:
        return X(1000 if running.finishing else x + item)


# ------------------------------------------------------------------------------------------------ threads
def test_a_started_run_runs_in_a_thread_of_its_own() -> None:
    class Where(Block):
        def __call__(self, x: int) -> Y:
            return Y(threading.get_ident())

    run = Graph(where=Where()).start(x=1)
    assert run.result().y != threading.get_ident() and run.outputs is run.result()
    with pytest.raises(GraphError, match=r"has its own thread, so it cannot be iterated. Call run.result\(\)"):
        next(run)
    with pytest.raises(GraphError, match="was started before"):
        run.start()


def test_the_error_of_a_started_run_is_raised_by_its_result() -> None:
    run = Graph(boom=Boom()).start(x=1)
    for _ in range(2):
        with pytest.raises(ValueError, match="boom") as caught:
            run.result()
        assert caught.value.__notes__ == ["  in 'boom' (Boom)"]


def test_a_started_run_is_checked_before_it_starts() -> None:
    with pytest.raises(sf.InputError, match="needs a value"):
        Graph(boom=Boom()).start()


def test_a_started_run_has_the_context_of_its_caller() -> None:
    class Context(Block):
        def __call__(self, x: int) -> Y:
            return Y(x + ADDED.get())

    ADDED.set(41)  # as sf.debug() sets its own
    assert Graph(context=Context()).start(x=1).result().y == 42


ADDED = ContextVar("ADDED", default=0)


def test_a_note_of_a_started_run_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="look here"):
        Graph(notes=Notes()).start(x=1).result()


def test_ctrl_c_cancels_the_run_that_the_main_thread_waits_for() -> None:
    run = Graph(gate=Gate(), double=XToY()).start(x=1)

    def interrupt() -> None:
        REACHED.wait(10)
        time.sleep(0.3)  # the main thread waits by now, on a busy machine too
        signal.pthread_kill(main, signal.SIGINT)
        GO_ON.wait(0.05)
        GO_ON.set()

    main = threading.get_ident()
    thread = threading.Thread(target=interrupt)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012  an interrupt outside of it would end the process
        thread.start()
        run.result()
    thread.join()
    with pytest.raises(Cancelled, match="The run was cancelled before double"):
        run.result()


# ------------------------------------------------------------------------------------------------ stopping
def test_a_run_that_is_cancelled_in_a_block_stops_before_the_next() -> None:
    run = Graph(gate=Gate(), double=XToY()).start(x=1)
    opened_after(run.cancel)
    with pytest.raises(Cancelled, match=r"^The run was cancelled before double\.$"):
        run.result()


def test_a_pause_stops_before_the_next_block_or_after_the_turn() -> None:
    graph = Graph(gate=Gate(), double=XToY())
    run = graph.start(x=4)
    assert opened_after(run.pause).reached.done == {"gate": {"x": 4}}
    with pytest.raises(Paused, match=r"^The run was paused before double\.$"):
        run.result()
    GO_ON.clear()
    REACHED.clear()
    run = Graph(loop=loop(gate=Gate(at=2), step=AddItem())).start(x=0, items=[1, 2, 3])
    assert opened_after(run.pause).reached.turns == {"loop": (2, {"x": 3})}
    with pytest.raises(Paused, match=r"^The run was paused after turn 2 of 3 of loop\.$"):
        run.result()


def test_a_streamed_run_is_paused_where_it_stands() -> None:
    run = Graph(make=MakeX(), loop=loop(step=AddItem())).stream(items=[1, 2, 3])
    for event in run:
        if isinstance(event, TurnFinished) and event.turn == 2:
            break
    assert run.pause().reached.turns == {"loop": (2, {"x": 6})}
    with pytest.raises(Paused, match="before loop"):
        run.result()


def test_a_pause_waits_for_the_thread_that_iterates_the_run() -> None:
    """No finished block runs again, and the thread gets all events before it gets the error."""
    run = Graph(loop=loop(gate=Gate(at=2), step=AddItem()), double=XToY()).stream(x=0, items=[1, 2, 3])
    events: list[Any] = []
    errors: list[Exception] = []

    def iterate() -> None:
        try:
            for event in run:
                events.append(event)
                time.sleep(0.01)  # the other thread takes the lock here
        except Paused as error:
            errors.append(error)

    thread = threading.Thread(target=iterate)
    thread.start()
    state = opened_after(run.pause)
    assert state.reached.turns == {"loop": (2, {"x": 3})}
    thread.join()
    assert [event.turn for event in events if isinstance(event, TurnFinished)] == [1, 2]
    assert len(errors) == 1
    assert sf.resume(state).result().y == 12


def test_a_pause_after_the_last_place_leaves_the_run_to_its_end() -> None:
    run = Graph(gate=Gate()).stream(x=1)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run.result().x))
    thread.start()
    opened_after(run.pause)
    thread.join()
    assert results == [1]


def test_a_block_may_pause_its_own_run() -> None:
    runs: list[sf.Run] = []

    class Pauses(Block):
        def __call__(self, x: int, item: int) -> X:
            if item == 2:
                runs[0].pause()
            return X(x + item)

    for threads in (False, True):
        runs[:] = [Graph(loop=loop(step=Pauses())).stream(x=0, items=[1, 2, 3])]
        with pytest.raises(Paused, match="after turn 2 of 3 of loop"):
            (runs[0].start() if threads else runs[0]).result()


# ------------------------------------------------------------------------------------------------ finishing now
def test_finish_now_ends_the_loop_with_the_present_turn() -> None:
    graph = Graph(loop=loop(gate=Gate(at=2), step=AddItem()), double=XToY())
    run = graph.start(x=0, items=[1, 2, 3, 4])
    opened_after(run.finish_now)
    assert run.result().y == 2 * 3


def test_the_last_turn_knows_that_it_is_the_last() -> None:
    graph = Graph(loop=loop(gate=Gate(at=2), step=Clean()), double=XToY())
    run = graph.start(x=0, items=[1, 2, 3, 4])
    opened_after(run.finish_now)
    assert run.result().y == 2000


def test_a_turn_whose_blocks_read_that_another_follows_is_not_the_last() -> None:
    graph = Graph(loop=loop(clean=Clean(), gate=Gate(at=2), again=Clean()))
    run = graph.start(x=0, items=[1, 2, 3, 4])
    opened_after(run.finish_now)
    assert run.result().x == 1000, "the third turn: its blocks agree"
    assert [e.turn for e in graph.stream(x=0, items=[1, 5]) if isinstance(e, TurnFinished)] == [1, 2]


def test_a_loop_that_begins_after_finish_now_has_one_turn() -> None:
    run = Graph(gate=Gate(), loop=loop(step=AddItem()), again=loop(clean=Clean())).start(x=0, items=[5, 6])
    opened_after(run.finish_now)
    assert run.result().x == 1000
    run = Graph(make=MakeX(), loop=loop(step=AddItem())).stream(items=[])
    run.finish_now()
    assert run.result().x == 3


def test_a_map_gives_the_elements_that_it_has() -> None:
    body = Graph(loop=loop(step=AddItem()), gate=Gate(at=7), outputs=("x",))
    run = Graph(each=Map(over="xs", each="x", body=body)).start(xs=[1, 2, 3], items=[1, 1], item=-1)
    run.finish_now()
    assert 1 <= len(run.result().x) <= 3


# ------------------------------------------------------------------------------------------------ components
class Lender:
    """Counts its leases."""

    def __init__(self) -> None:
        self.held = 0
        self.waiting = threading.Event()
        self.room = True
        self._woken = threading.Event()

    def lease(
        self, components: Sequence[Any], owner: str, stop: threading.Event | None = None, waits: Waits = None
    ) -> "Lender":
        while not self.room:
            self.waiting.set()
            assert self._woken.wait(10) and stop is not None
            if stop.is_set():
                raise Cancelled("The run was cancelled while it waited.")
        self.held += 1
        return self

    def release(self) -> None:
        self.held -= 1

    def wake(self) -> None:
        self._woken.set()


class Lent(Lazy):
    def __init__(self, lent_by: Lender, load: Callable[[], None] = lambda: None) -> None:
        self._lender, self._load = lent_by, load

    @property
    def type(self) -> Any:
        return Tool

    @property
    def lender(self) -> Any:
        return self._lender

    def load(self) -> Tool:
        self._load()
        return Tool()


class GateTool(Block):
    tool: Tool = component()

    def __call__(self, x: int, item: int = -1) -> X:
        REACHED.set()
        assert GO_ON.wait(10)
        return X(x)


STOPS = {"cancel": Cancelled, "pause": Paused}


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("place", ["block", "loop", "load"])
def test_a_stopped_run_gives_its_leases_back(how: str, place: str) -> None:
    lender = Lender()

    def load() -> None:
        REACHED.set()
        assert place != "load" or GO_ON.wait(10)

    step = GateTool()
    graph = Graph(loop=loop(step=step), last=XToY()) if place == "loop" else Graph(step=step, last=XToY())
    run = graph.bind(tool=Lent(lender, load)).start(**{"x": 1, "items": [1, 2]} if place == "loop" else {"x": 1})
    assert REACHED.wait(10) and lender.held == 1
    opened_after(getattr(run, how))
    with pytest.raises(STOPS[how]):
        run.result()
    assert lender.held == 0


@pytest.mark.parametrize("how", STOPS)
def test_a_run_that_waits_for_memory_stops_at_once(how: str) -> None:
    lender = Lender()
    lender.room = False
    run = Graph(step=GateTool(), last=XToY()).bind(tool=Lent(lender)).start(x=1)
    assert lender.waiting.wait(10)
    getattr(run, how)()
    with pytest.raises(STOPS[how], match=r"memory|waited"):
        run.result()
    assert lender.held == 0


@pytest.mark.parametrize("how", STOPS)
def test_a_streamed_run_that_is_stopped_gives_its_leases_back_at_once(how: str) -> None:
    lender = Lender()
    GO_ON.set()
    run = Graph(loop=loop(step=GateTool()), last=XToY()).bind(tool=Lent(lender)).stream(x=1, items=[1, 2])
    assert next(event for event in run if isinstance(event, BlockStarted)).path == "loop.step" and lender.held == 1
    getattr(run, how)()
    assert lender.held == 0
    with pytest.raises(STOPS[how]):
        run.result()
