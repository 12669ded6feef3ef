"""A graph for each element of a list: one file makes the block, and whatever walks a graph takes it as it is."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import pytest

import sfumato as sf
from sfumato import Block, Cancelled, Graph, InputError, Loop, Map, Memory, Switch, WireError, named
from sfumato.graph.events import BlockFinished, TurnFinished
from sfumato.graph.resuming import resumed

from .fakes import CALLS, Add, AddItem, MakeY, Sum, Tool, UseTool, X, XToY, Y, Z


class Total(NamedTuple):
    total: int


class AddUp(Block):
    def __call__(self, x: Sequence[int]) -> Total:
        return Total(sum(x))


class Count(NamedTuple):
    x: int
    seen: Memory[int]


class Counted(Block):
    def __call__(self, item: int, seen: Memory[int] = 0) -> Count:
        return Count(seen + 1, seen + 1)


class Weighted(Block):
    def __call__(self, x: int, item: int, seen: Memory[int] = 0) -> Count:
        return Count(x + item * (seen + 1), seen + 1)


def sums() -> Map:
    return Map(over="items", each="item", body=Graph(y=MakeY(), add=AddItem(), sum=Sum(), outputs=("x", "z")))


# ------------------------------------------------------------------------------------------------ running
def test_outputs_are_lists_in_the_order_of_the_elements() -> None:
    graph = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem(), double=XToY())))
    assert dict(graph(items=[1, 2, 3], x=10)) == {"x": [11, 12, 13], "y": [22, 24, 26]}
    assert dict(graph(items=[], x=10)) == {"x": [], "y": []}
    assert sums()(items=[1, 2], x=0, seed=1).z == [11, 12], "by itself"


def test_lists_flow_into_blocks_that_take_them() -> None:
    graph = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem())), total=AddUp(), outputs=("total",))
    assert graph(items=[1, 2], x=1).total == 5
    with pytest.raises(WireError, match=r"double.x  takes int, but map gives list\[int\]"):
        Graph(map=Map(over="items", each="item", body=Graph(add=AddItem())), double=XToY())


def test_what_does_not_depend_on_the_element_runs_once() -> None:
    CALLS.clear()
    sums()(items=[1, 2, 3], x=0)
    assert CALLS.count("make y") == 1 and CALLS.count("sum") == 3


def test_an_element_sees_no_memory_of_another() -> None:
    graph = Graph(map=Map(over="items", each="item", body=Graph(count=Counted())))
    assert graph(items=[5, 5, 5]).x == [1, 1, 1]
    rounds = Loop(over="items", each="item", carry=("x",), body=Graph(add=AddItem(), twice=Add()))
    assert Graph(map=Map(over="lists", each="items", body=Graph(loop=rounds)))(lists=[[1], [1, 1]], x=0).x == [2, 4]


def test_events_are_its_turns_with_the_lists_so_far() -> None:
    run = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem()))).stream(items=[1, 2], x=0)
    events = list(run)
    assert [(e.path, e.turn, e.turns, dict(e.values)) for e in events if isinstance(e, TurnFinished)] == [
        ("map", 1, 2, {"x": [1]}),
        ("map", 2, 2, {"x": [1, 2]}),
    ]
    assert [e.path for e in events if isinstance(e, BlockFinished)] == ["map.add", "map.add"]


def test_a_run_resumes_from_every_cut() -> None:
    inner = Loop(over="items", each="item", carry=("x",), body=Graph(add=Weighted()))
    graph = Graph(map=Map(over="lists", each="items", body=Graph(loop=inner)))
    values = {"lists": [[1, 2], [], [3]], "x": 1}
    count = sum(1 for _ in graph.stream(**values))
    for cut in range(count):
        run = graph.stream(**values)
        for _ in range(cut):
            next(run)
        again = resumed(replace(run.state, reached=pickle.loads(pickle.dumps(run.state.reached))), {})
        assert again.result().x == [6, 1, 4], f"cut after {cut} events"


def test_a_run_is_cancelled_between_elements() -> None:
    run = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem()))).stream(items=[1, 2], x=0)
    for event in run:
        if isinstance(event, TurnFinished):
            run.cancel()
            break
    with pytest.raises(Cancelled, match=r"^The run was cancelled before map\.$"):
        run.result()


def test_an_error_says_at_which_element() -> None:
    class Fails(Block):
        def __call__(self, item: int) -> X:
            return X(1 // item)

    with pytest.raises(ZeroDivisionError) as caught:
        Map(over="items", each="item", body=Graph(fails=Fails()))(items=[1, 0])
    assert caught.value.__notes__ == ["  in 'map.fails' (Fails)", "  in turn 2 of 2 of 'map'"]


# ------------------------------------------------------------------------------------------------ graphs
def test_edits_bindings_and_slots_reach_inside() -> None:
    body = Graph(add=AddItem(), use=UseTool())
    graph = Graph(map=Map(over="items", each="item", body=body), slots={"step": ["map.use"]}).bind(tool=Tool(2))
    assert graph(items=[1, 2], x=0).y == [2, 4]
    assert graph(items=[1, 2], x=0, tool=Tool(3)).y == [3, 6]
    assert graph(items=[1, 2], x=0, step=XToY()).y == [2, 4]
    changed = graph.replace("map.use", XToY()).rename("map.add", "plus")
    assert changed["map.plus"] == AddItem() and changed.components == {}
    assert changed.replace("map.use", UseTool()).rename("map.plus", "add").replace("map.use", UseTool()) == graph


def test_what_is_missing_is_found_by_check_and_by_the_call() -> None:
    graph = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem(), use=UseTool())))
    (problem,) = graph.check()
    assert (problem.code, problem.place) == ("unbound", "tool")
    with pytest.raises(InputError, match=r"no component is bound, and map needs Tool"):
        graph(items=[1], x=0)


def test_explain_goes_through_it() -> None:
    graph = Graph(start=Add(), map=named(Map(over="items", each="item", body=Graph(add=AddItem())), items="numbers"))
    assert graph.explain("map.add.item").splitlines() == [
        "map.add.item  int",
        "  <- each item of map.numbers",
        "  <- the call: numbers=…",
    ]
    assert graph.explain("map.add.x").splitlines()[1:] == ["  <- map.x", "  <- start.x  (by the wiring rule)"]


def test_diff_names_blocks_inside_and_its_own_settings() -> None:
    graph = Graph(map=Map(over="items", each="item", body=Graph(add=AddItem())))
    other = Graph(map=Map(over="numbers", each="item", body=Graph(add=AddItem(), double=XToY())))
    assert str(graph.diff(other)).splitlines() == ["+ map.double", "~ map"]
    assert not graph.diff(Graph(map=Map(over="items", each="item", body=Graph(add=AddItem()))))


def test_it_is_drawn() -> None:
    graph = Graph(map=sums())
    text = graph.show()
    assert "map  map: for each item in items" in text
    assert "y    MakeY · once per loop" in text and "<- each item" in text
    assert 'subgraph n_map["map · for each item in items"]' in graph.show("mermaid")
    assert "for each item in items" in graph.show("svg")


class Plus(Block, name="maps.Plus"):
    by: int = 1

    def __call__(self, x: int, item: int) -> X:
        return X(x + item * self.by)


@pytest.mark.parametrize("inside", ["a graph", "a loop", "a switch", "a map"])
def test_it_survives_a_file(tmp_path: Path, inside: str) -> None:
    block: Block = Map(over="items", each="item", body=Graph(plus=Plus(by=3), outputs=("x",)))
    if inside == "a loop":
        again = named(Map(over="lists", each="items", body=Graph(map=block)), x="x")
        graph = Graph(loop=Loop(over="turns", each="item", carry=("x",), body=Graph(plus=Plus())), map=again)
    elif inside == "a switch":
        graph = Graph(pick=Switch(on="mode", cases={"a": Graph(map=block)}))
    elif inside == "a map":
        graph = Graph(outer=Map(over="lists", each="items", body=Graph(map=block)))
    else:
        graph = Graph(map=block)
    graph.save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert loaded == graph and not graph.diff(loaded)
    if inside == "a graph":
        assert loaded(items=[1, 2], x=1).x == [4, 7] and isinstance(loaded["map.plus"], Plus)


# ------------------------------------------------------------------------------------------------ refused
Make = Annotated[Callable[[int], int], sf.Port("make")]


class Made(NamedTuple):
    make: Make


class MakesFunction(Block):
    def __call__(self, item: int) -> Made:
        def add(n: int) -> int:
            return n + item

        return Made(add)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Map(over="items", each="item", body=Add()),  # type: ignore[arg-type]  # on purpose
            "body  is Add, not a graph. Write body=Graph(name=block, …).",
        ),
        (
            lambda: Map(over="items", each="itm", body=Graph(add=AddItem())),
            "each  no block of the body takes 'itm'. Did you mean 'item'? There are: x, item.",
        ),
        (
            lambda: Map(over="item", each="item", body=Graph(add=AddItem())),
            "over  'item' cannot name the list. Choose a name that is not 'item', such as 'items'.",
        ),
        (
            lambda: Map(over="x", each="item", body=Graph(add=AddItem())),
            "over  the body also takes 'x', as int, but 'x' is a Sequence[int] here. Rename one of them.",
        ),
        (
            lambda: Map(over="items", each="item", body=Graph(make=MakesFunction())),
            "body.make  'make' is a function, and a map gives values only. Call it in the body: outputs=(…).",
        ),
    ],
)
def test_what_no_map_can_be_is_refused(make: Callable[[], Map], text: str) -> None:
    with pytest.raises(WireError) as caught:
        make()
    assert str(caught.value) == text


def test_a_body_may_read_the_whole_list_too() -> None:
    class Share(Block):
        def __call__(self, item: int, items: Sequence[int]) -> Z:
            return Z(item * 100 // sum(items))

    class Half(Block):
        def __call__(self, z: int) -> Y:
            return Y(z // 2)

    graph = Graph(map=Map(over="items", each="item", body=Graph(share=Share(), half=Half())))
    assert graph(items=[1, 3]).y == [12, 37]
