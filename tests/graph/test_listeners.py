"""Functions, event loops and progress bars that get the events of a run."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import sfumato as sf
from sfumato import Cancelled, Graph, GraphError, InputError, Outputs
from sfumato.graph.events import BlockFinished, BlockReused, Event, Note, RunFinished, TurnFinished
from sfumato.graph.sizes import value_bytes

from .fakes import AddItem, Boom, MakeX, Notes, X, XToY, loop
from .test_leases import Handle, Lending, Tool


class Add(sf.Block):
    """x + item + the number of a tool, after the gate is open."""

    tool: Tool = sf.component()

    def __call__(self, x: int, item: int) -> X:
        REACHED.set()
        assert GATE.wait(10)
        return X(x + item + self.tool.value)


REACHED, GATE = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def open_gate() -> None:
    GATE.set()
    REACHED.clear()


def leased(lending: Lending) -> Graph:
    return Graph(loop=loop(add=Add())).bind(tool=Handle("tool", 1, lending))


# ------------------------------------------------------------------------------------------------ kinds of events
def test_programs_match_on_the_classes_of_events() -> None:
    def text(event: Event) -> str:
        match event:
            case TurnFinished(path=path, turn=turn, turns=turns):
                return f"{path} {turn}/{turns}"
            case BlockFinished(path, seconds, size):
                return f"{path} took {seconds >= 0} {size}"
            case RunFinished(outputs=outputs):
                return f"gave {outputs['x']}"
            case _:
                return event.path

    graph = Graph(make=MakeX(), loop=loop(step=AddItem()))
    assert [text(event) for event in graph.stream(items=[1])] == [
        "make", "make took True 0", "loop.step", "loop.step took True 0", "loop 1/1", "gave 4",
    ]  # fmt: skip


def test_the_last_event_has_the_outputs_of_the_run() -> None:
    run = Graph(make=MakeX()).stream()
    *_, last = run
    assert isinstance(last, RunFinished) and last.outputs is run.outputs
    with pytest.raises(StopIteration):
        next(run)


def test_reused_outputs_are_events_of_their_own() -> None:
    graph, memo = Graph(make=MakeX(), double=XToY()), sf.memo()
    graph(memo=memo)
    kinds = [type(event) for event in graph.stream(memo=memo)]
    assert kinds == [BlockReused, BlockReused, RunFinished]


def test_the_size_of_a_value_is_that_of_its_tensors_arrays_and_pictures() -> None:
    import numpy as np
    import torch
    from PIL import Image

    class Pair(NamedTuple):
        a: Any
        b: Any

    values = Pair(torch.zeros(2, 3), [np.zeros(4, np.uint8), {"k": Image.new("RGB", (5, 2))}])
    assert value_bytes(values) == 24 + 4 + 30
    assert value_bytes((1, "text", len, None, torch.zeros(3, device="meta", dtype=torch.float16))) == 6
    endless: list[Any] = []
    endless.append(endless)
    assert value_bytes(endless) == 0


# ------------------------------------------------------------------------------------------------ on_event=
def test_a_function_gets_each_event_of_a_call() -> None:
    seen: list[Event] = []
    graph = Graph(make=MakeX(), double=XToY(), loop=loop(step=AddItem()))
    outputs = graph(items=[1, 2], on_event=seen.append)
    assert [type(e) for e in seen] == [type(e) for e in graph.stream(items=[1, 2])]
    assert isinstance(seen[-1], RunFinished) and seen[-1].outputs == outputs
    again: list[Event] = []
    streamed = list(graph.stream(items=[1, 2], on_event=again.append))
    assert streamed == again
    started: list[Event] = []
    graph.start(items=[1, 2], on_event=started.append).result()
    assert [e.path for e in started] == [e.path for e in seen]


def test_notes_are_no_warnings_where_a_function_gets_them() -> None:
    seen: list[Event] = []
    Graph(notes=Notes())(x=1, on_event=seen.append)
    assert [e.text for e in seen if isinstance(e, Note)] == ["look here"]


def test_an_error_of_the_function_says_so_and_leaves_no_lease() -> None:
    lending = Lending()

    def fails(event: Event) -> None:
        if isinstance(event, BlockFinished):
            assert lending.held == ["tool"]
            raise KeyError("oops")

    with pytest.raises(KeyError, match="oops") as caught:
        leased(lending)(x=0, items=[1, 2], on_event=fails)
    assert caught.value.__notes__ == ["  in on_event, at BlockFinished of 'loop.add'. The run ended there."]
    assert lending.held == []


def test_a_run_goes_on_after_an_error_of_the_function() -> None:
    turns: list[int] = []

    def fails_once(event: Event) -> None:
        if isinstance(event, TurnFinished):
            turns.append(event.turn)
            if len(turns) == 1:
                raise KeyError("oops")

    run = leased(Lending()).stream(x=0, items=[1, 2, 3], on_event=fails_once)
    with pytest.raises(KeyError):
        run.result()
    assert run.result().x == 9 and turns == [1, 2, 3]


WRONG = {
    "a number": (
        {"on_event": 3}, "on_event  needs a function of one event, got 3 (int). Write on_event=print, for example.",
    ),
    "a coroutine": (
        {"on_event": asyncio.sleep},
        "on_event  is an async function, and a run calls it without await. Write `async for event in graph.stream(…)`.",
    ),
    "a text": ({"progress": "no"}, "progress  needs True or False, got 'no' (str)."),
    "two": (
        {"memo": 2, "progress": 3},
        "(2 problems)\n  memo      needs a memo, got 2 (int). Make one with sf.memo(), and pass it to each call."
        "\n  progress  needs True or False, got 3 (int).",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_unfit_keywords_of_a_call_are_refused(case: str) -> None:
    keywords, text = WRONG[case]
    with pytest.raises(InputError) as caught:
        Graph(make=MakeX())(**keywords)
    assert str(caught.value) == text


@pytest.mark.parametrize("near", ["adaptors", "memos", "on_events", "progres"])
def test_near_names_of_the_keywords_of_each_call_are_recognised(near: str) -> None:
    word = {"adaptors": "adapters", "memos": "memo", "on_events": "on_event", "progres": "progress"}[near]
    with pytest.raises(InputError, match=rf"^{near}  no such input\. Did you mean '{word}'\?"):
        Graph(make=MakeX())(**{near: None})


def test_an_input_of_the_graph_comes_before_the_keyword_of_that_name() -> None:
    class Shows(sf.Block):
        def __call__(self, progress: int, on_event: int) -> X:
            return X(progress + on_event)

    assert Graph(shows=Shows())(progress=1, on_event=2).x == 3


# ------------------------------------------------------------------------------------------------ async for
def test_an_event_loop_gets_the_same_events_and_goes_on_meanwhile() -> None:
    GATE.clear()

    async def collect() -> list[Event]:
        async def open_the_gate() -> None:  # while a block waits for it
            while not REACHED.is_set():
                await asyncio.sleep(0.001)
            GATE.set()

        opening = asyncio.create_task(open_the_gate())
        events = [event async for event in leased(Lending()).stream(x=0, items=[1, 2])]
        await opening
        return events

    events = asyncio.run(collect())
    assert [e.path for e in events] == [e.path for e in leased(Lending()).stream(x=0, items=[1, 2])]
    assert isinstance(events[-1], RunFinished) and events[-1].outputs == Outputs({"x": 5})


def test_a_cancelled_task_cancels_its_run_and_gives_the_leases_back() -> None:
    GATE.clear()
    lending = Lending()
    run = leased(lending).stream(x=0, items=[1, 2])

    async def cancel() -> None:
        async def consume() -> None:
            async for _ in run:
                pass

        task = asyncio.create_task(consume())
        while not REACHED.is_set():
            await asyncio.sleep(0.001)
        assert lending.held == ["tool"]
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()  # the block that runs keeps its components until its end
        GATE.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lending.held == []

    asyncio.run(cancel())
    with pytest.raises(Cancelled):
        run.result()


def test_leaving_an_async_iteration_closes_the_run() -> None:
    lending = Lending()
    run = leased(lending).stream(x=0, items=[1, 2])

    async def leave() -> None:
        async for event in run:
            if isinstance(event, BlockFinished):
                assert lending.held == ["tool"]
                break
        while lending.held:  # the event loop closes what was left
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(leave(), 10))
    assert run.result().x == 5  # it goes on from there


def test_errors_of_blocks_and_of_misuse_reach_the_async_caller() -> None:
    async def consume(run: sf.Run) -> None:
        async for _ in run:
            pass

    with pytest.raises(ValueError, match="boom") as caught:
        asyncio.run(consume(Graph(boom=Boom()).stream(x=1)))
    assert caught.value.__notes__ == ["  in 'boom' (Boom)"]
    with pytest.raises(GraphError, match="has its own thread, so it cannot be iterated"):
        asyncio.run(consume(leased(Lending()).start(x=0, items=[1])))


def test_runs_that_wait_for_memory_do_not_stop_the_one_that_holds_it() -> None:
    """Each has a thread: more runs than the event loop's own pool has threads may wait."""
    lock = threading.Lock()

    class Holds(sf.Block):
        def __call__(self, item: int) -> X:
            with lock:
                time.sleep(0.001)
            return X(item)

    graph = Graph(loop=sf.Map(over="items", each="item", body=Graph(holds=Holds())))

    async def many() -> list[Any]:
        async def last(k: int) -> Any:
            return [event async for event in graph.stream(items=[k, k])][-1]

        return await asyncio.gather(*map(last, range(20)))

    finished: list[RunFinished] = asyncio.run(many())
    assert [event.outputs["x"] for event in finished] == [[k, k] for k in range(20)]


# ------------------------------------------------------------------------------------------------ a bar
class Bars:
    """Records what a bar shows, in place of a terminal."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, int, int]] = []
        self.open = 0

    def update(self, text: str, done: int, total: int, speed: str) -> None:
        self.shown.append((text, done, total))

    def close(self) -> None:
        self.open -= 1

    def make(self) -> "Bars":
        self.open += 1
        return self


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Bars:
    made = Bars()
    monkeypatch.setattr("sfumato.registry.progress._kind", lambda: made.make)
    return made


GRAPH = Graph(make_x=MakeX(), loop=loop(step=AddItem()))


def test_a_call_shows_its_blocks_and_turns(bars: Bars) -> None:
    GRAPH(items=[1, 2])
    assert bars.shown == [("make x", 0, 0), ("loop", 1, 2), ("loop", 2, 2)] and bars.open == 0


@pytest.mark.parametrize(
    "run",
    [
        lambda: GRAPH(items=[1], progress=False),
        lambda: list(GRAPH.stream(items=[1])),
        lambda: GRAPH.start(items=[1]).result(),
        lambda: list(GRAPH.stream(items=[1], progress=False)),
    ],
    ids=["progress=False", "stream", "start", "stream, progress=False"],
)
def test_nothing_is_shown_where_nobody_wants_it(bars: Bars, run: Callable[[], object]) -> None:
    run()
    assert bars.shown == []


def test_a_stream_shows_progress_if_it_is_asked_for(bars: Bars) -> None:
    run = GRAPH.stream(items=[1], progress=True)
    next(run)
    assert bars.open == 1
    run.close()
    assert bars.open == 0


def test_the_bar_ends_with_an_error(bars: Bars) -> None:
    with pytest.raises(ValueError, match="boom"):
        Graph(boom=Boom())(x=1)
    assert bars.open == 0 and bars.shown == [("boom", 0, 0)]


def test_a_run_inside_a_run_shows_no_second_bar(bars: Bars) -> None:
    class Calls(sf.Block):
        def __call__(self) -> X:
            return X(GRAPH(items=[1, 2]).x)

    Graph(calls=Calls())()
    assert bars.shown == [("calls", 0, 0)] and bars.open == 0
