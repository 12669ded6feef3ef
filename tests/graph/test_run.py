"""Runs: events and their order, loops, switches, memory, cancelling, resuming, and when values die."""

import pickle
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sfumato.graph import (
    Block,
    Cancelled,
    Cell,
    Graph,
    GraphError,
    InputError,
    Loop,
    Memory,
    Running,
    Switch,
    WireError,
    component,
    named,
)
from sfumato.graph.events import BlockFinished, BlockStarted, Note, RunFinished, TurnFinished
from sfumato.graph.ports import ALONE
from sfumato.graph.resuming import resumed

from .fakes import (
    CALLS,
    Add,
    AddItem,
    Boom,
    Cached,
    CallPredict,
    Checks,
    Count,
    Effect,
    MakePredict,
    MakeX,
    MakeY,
    Notes,
    Predict,
    X,
    XToY,
    Y,
    YToZ,
    loop,
    paths,
)


# ------------------------------------------------------------------------------------------------ events
def test_events_come_in_order_with_their_paths() -> None:
    graph = Graph(make=MakeX(), inner=Graph(add=Add(), again=Graph(more=Add())), loop=loop(step=AddItem()))
    events = [(type(e), e.path) for e in graph.stream(items=[1, 2])]
    assert events == [
        (BlockStarted, "make"),
        (BlockFinished, "make"),
        (BlockStarted, "inner.add"),
        (BlockFinished, "inner.add"),
        (BlockStarted, "inner.again.more"),
        (BlockFinished, "inner.again.more"),
        (BlockStarted, "loop.step"),
        (BlockFinished, "loop.step"),
        (TurnFinished, "loop"),
        (BlockStarted, "loop.step"),
        (BlockFinished, "loop.step"),
        (TurnFinished, "loop"),
        (RunFinished, ""),
    ]


def test_a_turn_tells_where_it_is_and_what_it_carries() -> None:
    turns = [e for e in Graph(loop=loop(step=AddItem())).stream(x=0, items=[5, 6]) if isinstance(e, TurnFinished)]
    assert [(e.turn, e.turns, dict(e.values)) for e in turns] == [(1, 2, {"x": 5}), (2, 2, {"x": 11})]


def test_a_run_is_iterated_or_asked_for_its_result() -> None:
    run = Graph(make=MakeX(), double=XToY()).stream(seed=2)
    assert next(run).path == "make"
    with pytest.raises(GraphError, match=r"has no outputs yet, because it has not ended. .* or call run.result\(\)"):
        _ = run.outputs
    assert run.result().y == 4 and run.result() is run.outputs


def test_a_note_is_an_event_or_a_warning() -> None:
    graph = Graph(notes=Notes())
    assert [e.text for e in graph.stream(x=1) if isinstance(e, Note)] == ["look here"]
    with pytest.warns(UserWarning, match="look here"):
        graph(x=1)
    with pytest.warns(UserWarning, match="look here"):
        Notes()(1, ALONE)


def test_errors_name_the_path_and_the_turn() -> None:
    with pytest.raises(ValueError, match="boom") as caught:
        Graph(outer=Graph(boom=Boom()))(x=1)
    assert caught.value.__notes__ == ["  in 'outer.boom' (Boom)"]
    with pytest.raises(ValueError, match="boom") as caught:
        Graph(loop=loop(boom=Boom(), step=Fold()))(x=1, items=[1, 2])
    assert caught.value.__notes__ == ["  in 'loop.boom' (Boom)", "  in turn 1 of 2 of 'loop'"]


def test_an_input_and_an_output_may_be_renamed_to_one_name() -> None:
    assert Graph(add=named(XToY(), x="v", y="v"))(v=2).v == 4
    nested = named(Graph(double=XToY(), z=YToZ(), outputs=("z",)), x="v", z="v")
    assert Graph(one=nested, two=nested)(v=1).v == 7
    swapped = Loop(over="items", each="item", carry=("x",), body=Graph(a=named(XToY(), x="x", y="x"), b=AddItem()))
    assert Graph(go=named(swapped, x="w"))(w=1, items=[1, 1]).w == 7


class Fold(Block):
    def __call__(self, x: int, y: int, item: int) -> X:
        return X(x + y + item)


# ------------------------------------------------------------------------------------------------ loops
def test_a_loop_carries() -> None:
    assert Graph(loop=loop(step=AddItem()))(x=1, items=[1, 2, 3]).x == 7
    assert loop(step=AddItem())(x=1, items=[1, 2, 3]).x == 7


def test_no_items_give_back_what_came() -> None:
    assert Graph(loop=loop(step=AddItem()))(x=1, items=[]).x == 1


def test_what_does_not_depend_on_the_turn_runs_once() -> None:
    CALLS.clear()
    body = {"y": MakeY(), "z": YToZ(), "use": Uses(), "step": AddItem()}
    assert Graph(loop=loop(**body))(x=0, items=[1, 2, 3]).x == 6 + 3 * 31
    assert CALLS == ["make y", "y to z", "item 1", "item 2", "item 3"]
    CALLS.clear()
    Graph(loop=loop(**body))(x=0, items=[])
    assert not CALLS


class Uses(Block):
    def __call__(self, x: int, z: int) -> X:
        return X(x + z)


def test_loops_in_loops() -> None:
    inner = Loop(over="rows", each="item", carry=("x",), body=Graph(step=AddItem()))
    outer = Loop(over="items", each="rows", carry=("x",), body=Graph(make=MakeY(), inner=inner, fold=Uses2()))
    CALLS.clear()
    assert Graph(outer=outer)(x=0, items=[[1, 2], [], [3]]).x == 6 + 3 * 30
    assert CALLS.count("make y") == 1


class Uses2(Block):
    def __call__(self, x: int, y: int) -> X:
        return X(x + y)


def test_memory_is_carried_by_turns_and_begins_anew_with_each_loop_run() -> None:
    graph = Graph(one=loop(count=Count()), two=loop(count=Count()))
    assert graph(x=0, items=[0, 0, 0]).x == 3 + 3
    run = graph.stream(x=0, items=[0, 0, 0])
    run.result()
    assert not run.state.reached.memory and not run.state.reached.turns


def test_memory_of_an_inner_loop_begins_anew_each_turn_of_the_outer() -> None:
    inner = Loop(over="rows", each="item", carry=("x",), body=Graph(count=Count()))
    outer = Loop(over="items", each="rows", carry=("x",), body=Graph(inner=inner, count=named(Count(), item="rows2")))
    assert Graph(outer=outer)(x=0, items=[[0, 0], [0, 0, 0]], rows2=0).x == (0 + 1) + 0 + (0 + 1 + 2) + 1


def test_memory_is_no_port() -> None:
    s = Graph(loop=loop(count=Count())).signature
    assert "seen" not in s.inputs and "seen" not in s.outputs


class Cache(Block):
    def __call__(self, predict: Predict, item: int, past: Memory[Any] = None) -> Cached:
        cell = Cell(past)

        def again(x: int) -> int:
            if item % 2 and cell.value is not None:
                return cell.value
            cell.value = predict(x)
            return cell.value

        return Cached(again, cell)


def test_what_is_written_while_a_function_runs_is_frozen_at_the_end_of_its_turn() -> None:
    graph = Graph(y=MakeY(), model=MakePredict(), loop=loop(cache=Cache(), use=CallPredict()))
    run = graph.stream(x=1, items=[0, 1, 2])
    seen = [dict(run.state.reached.memory) for event in run if isinstance(event, TurnFinished)]
    assert seen == [{"loop.cache": {"past": 30}}, {"loop.cache": {"past": 30}}, {"loop.cache": {"past": 930}}]


# ------------------------------------------------------------------------------------------------ switches
def test_a_switch_runs_one_case() -> None:
    CALLS.clear()
    switch = Switch(on="mode", cases={"double": Graph(go=XToY())}, default=Graph(make=MakeY()))
    graph = Graph(pick=switch, last=YToZ())
    assert (graph(mode="double", x=2).z, graph(mode="other", x=2).z) == (5, 31)
    assert CALLS == ["x to y", "y to z", "make y", "y to z"]
    assert paths(list(graph.stream(mode="double", x=2)), BlockStarted) == ["pick.double.go", "last"]
    with pytest.raises(InputError, match="needs a value"):
        graph(mode="double")


def test_a_case_may_read_the_choice_itself() -> None:
    class Tell(Block):
        def __call__(self, mode: str) -> Y:
            return Y(len(mode))

    assert Graph(pick=Switch(on="mode", cases={"abc": Graph(tell=Tell())}))(mode="abc").y == 3


def test_cases_that_need_one_component_as_two_classes_are_refused() -> None:
    from .fakes import UseTool

    class Other(Block):
        tool: int = component()

        def __call__(self, x: int) -> Y:
            return Y(x)

    with pytest.raises(WireError, match="tool  is Tool in a, but int in b"):
        Switch(on="mode", cases={"a": Graph(use=UseTool()), "b": Graph(use=Other())})


# ------------------------------------------------------------------------------------------------ cancelling
def test_a_run_is_cancelled_before_its_next_node() -> None:
    run = Graph(make=MakeX(), loop=loop(step=AddItem())).stream(items=[1, 2])
    for event in run:
        if isinstance(event, TurnFinished):
            run.cancel()
            break
    with pytest.raises(Cancelled, match=r"The run was cancelled before loop\."):
        run.result()


def test_from_another_thread_and_in_the_middle_of_a_node() -> None:
    class Wait(Block):
        def __call__(self, x: int, item: int) -> X:
            started.set()
            cancelled.wait(5)
            return X(x)

    started, cancelled = threading.Event(), threading.Event()
    run = Graph(loop=loop(wait=Wait(), check=Checks())).stream(x=0, items=[1])

    def stop() -> None:
        started.wait(5)
        run.cancel()
        cancelled.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Cancelled, match=r"before loop.check"):
        run.result()
    thread.join()

    class Cancels(Block):
        def __call__(self, x: int, running: Running) -> X:
            run.cancel()
            running.check()
            return X(x)

    run = Graph(check=Cancels()).stream(x=1)
    with pytest.raises(Cancelled, match=r"The run was cancelled in check."):
        run.result()


# ------------------------------------------------------------------------------------------------ resuming
class Shout(Block):
    """A function made outside the loop, from a value made outside it."""

    def __call__(self, predict: Predict, x: int) -> "Predicted2":
        def louder(v: int) -> int:
            return predict(v) + x

        return Predicted2(louder)


class Predicted2(NamedTuple):
    predict: Callable[[int], int]


def everything() -> Graph:
    inner = Loop(over="rows", each="item", carry=("x",), body=Graph(count=Count(), cache=Cache(), use=CallPredict()))
    outer = Graph(count=named(Count(), item="n"), inner=inner, again=named(Count(), item="n"))
    return Graph(
        make=MakeX(),
        model=Graph(y=MakeY(), plus=named(Add(), x="y"), model=MakePredict(), outputs=("predict",)),
        shout=Shout(),
        nested=Graph(a=Add(), b=Add(n=2)),
        loop=Loop(over="items", each="rows", carry=("x",), body=outer),
        pick=Switch(on="mode", cases={"a": Graph(add=Add())}),
        last=named(Count(), item="n"),
        outputs=("x",),
    )


def test_a_run_resumes_exactly_from_every_cut() -> None:
    graph, values = everything(), {"items": [[1, 2], [3], [1, 1, 2]], "mode": "a", "n": 0}
    want = graph(**values).x
    count = sum(1 for _ in graph.stream(**values))
    assert count > 40
    for cut in range(count):
        run = graph.stream(**values)
        for _ in range(cut):
            next(run)
        saved = pickle.dumps(run.state.reached)  # plain data
        again = resumed(replace(run.state, reached=pickle.loads(saved)), {})
        assert again.result().x == want, f"cut after {cut} events"
        assert run.result().x == want  # and the paused one goes on


def test_a_run_that_failed_goes_on_where_it_stands() -> None:
    tries: list[int] = []

    class Sometimes(Block):
        def __call__(self, x: int, item: int) -> X:
            tries.append(item)
            if len(tries) == 2:
                raise ValueError("once")
            return X(x + item)

    CALLS.clear()
    run = Graph(make=MakeX(), loop=loop(count=Count(), step=Sometimes())).stream(items=[1, 2, 3])
    with pytest.raises(ValueError, match="once"):
        run.result()
    assert run.result().x == 3 + 6 + 3 and CALLS == ["make x"] and tries == [1, 2, 2, 3]


# ------------------------------------------------------------------------------------------------ run orders, threads
def test_plans_are_made_once() -> None:
    graph = Graph(make=MakeX(), loop=loop(step=AddItem()))
    graph(items=[1])
    orders = graph.__dict__["_cache"]["run order"]
    first = dict(orders)
    graph(items=[1, 2])
    assert orders is graph.__dict__["_cache"]["run order"] and all(orders[k] is v for k, v in first.items())


def test_threads_run_one_graph_at_once() -> None:
    graph, wrong = everything(), []
    want = {n: graph(items=[[n, 2], [3]], mode="a", n=0).x for n in range(4)}

    def work(n: int) -> None:
        wrong.extend(n for _ in range(15) if graph(items=[[n, 2], [3]], mode="a", n=0).x != want[n])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_effect_runs_though_nobody_reads_it() -> None:
    CALLS.clear()
    Graph(make=MakeX(), effect=Effect(), double=XToY(), outputs=("y",))(seed=1)
    assert "effect 1" in CALLS


def test_nesting_costs_a_call_no_more_than_its_depth() -> None:
    def nested(depth: int) -> Graph:
        graph = Graph(add=Add())
        for _ in range(depth):
            graph = Graph(inner=graph)
        return graph

    seen = {}
    for depth in (10, 40):
        graph = nested(depth)
        graph(x=0)
        import sys

        calls = 0

        def count(frame: Any, event: str, arg: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        assert graph(x=0).x == 1
        sys.setprofile(None)
        seen[depth] = calls
    assert seen[40] < 5 * seen[10]
