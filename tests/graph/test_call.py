"""A call: what its keywords mean, which values fit, and everything that is wrong at once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NewType

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.graph import Block, BrokenBlock, Graph, InputError, Loop, WireError, component, knob, named
from sfumato.graph.events import ComponentLoaded, Note
from sfumato.graph.validate import Unfit, fitted

from .fakes import (
    CALLS,
    Add,
    AddItem,
    Handle,
    MakeX,
    MakeY,
    MayUseTool,
    SharpTool,
    Sum,
    Tool,
    UseTool,
    X,
    XToY,
    Y,
    YToZ,
)

Small = NewType("Small", int)


class Thing: ...


@pytest.mark.parametrize(
    ("value", "hint", "want"),
    [
        (1, float, 1.0),
        (np.int64(3), int, 3),
        (np.float32(0.5), float, 0.5),
        (np.bool_(True), bool, True),
        (np.int32(2), float, 2.0),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((1, 2), Sequence[int], (1, 2)),
        ([np.int64(1)], list[int], [1]),
        (None, int | None, None),
        (1, float | int, 1),
        (1.5, int | float, 1.5),
        ("a", Literal["a", "b"], "a"),
        ("a", str | list[str], "a"),
        (["a"], str | list[str], ["a"]),
        (Path("x"), Path, Path("x")),
        (3, Small, 3),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ([1, "a"], tuple[int, str], (1, "a")),
        (True, bool | int, True),
        (True, int | bool, True),
        (b"x", bytes, b"x"),
        ((1,), tuple[float, ...], (1.0,)),
    ],
)
def test_values_that_fit(value: Any, hint: Any, want: Any) -> None:
    made = fitted(value, hint)
    assert made == want and type(made) is type(want)


@pytest.mark.parametrize(
    ("value", "hint", "text"),
    [
        ("64", int, "takes int"),
        (True, int, "takes int"),
        (1.5, int, "takes int"),
        (None, int, "takes int"),
        ("a", list[str], "takes list[str]"),
        ("c", Literal["a", "b"], "takes 'a' | 'b'"),
        ([1, "a"], list[int], "takes list[int] ([1]: input should be a valid integer)"),
        (1, str, "takes str"),
        ("x", float | None, "takes float | None"),
        (np.float32(0.5), int, "takes int"),
        ("abc", Sequence[str], None),
        ([1], tuple[Thing, ...], "takes tuple[Thing, …] (takes Thing)"),
        ([1, 2], tuple[int, Thing], "takes tuple[int, Thing] (takes Thing)"),
        ([1], tuple[int, Thing], "takes tuple[int, Thing] (2 of them)"),
        (True, Small, None),
        (3, Callable[[int], int], "takes (int) -> int"),
        ([1.0], Float[Tensor, "b"], "takes Float[Tensor, 'b']"),
        (torch.zeros(2, 2), Float[Tensor, "b"], "takes Float[Tensor, 'b'] (with the dimensions b)"),
        (Tool, Tool, "takes Tool"),
    ],
)
def test_values_that_do_not_fit(value: Any, hint: Any, text: str | None) -> None:
    with pytest.raises(Unfit) as caught:
        fitted(value, hint)
    assert text is None or str(caught.value) == text


def test_objects_pass_by_class_and_are_not_copied() -> None:
    thing, tensor = Thing(), torch.zeros(2)
    assert fitted(thing, Thing | None) is thing and fitted(tensor, Float[Tensor, "b"]) is tensor
    assert fitted([thing], Sequence[Thing])[0] is thing
    assert fitted(tensor, Float[Tensor, "*batch"]) is tensor is fitted(tensor, Float[Tensor, "... n"])


def test_one_value_without_a_name_is_the_first_input() -> None:
    assert Graph(double=XToY())(4).y == 8
    with pytest.raises(InputError, match="call  takes one value without a name, which is 'x', got 1"):
        Graph(double=XToY())(4, x=3)


def test_only_declared_outputs_come_back() -> None:
    out = Graph(make=MakeX(), double=XToY(), outputs=("y",))(seed=2)
    assert dict(out) == {"y": 4} and repr(out) == "Outputs(y)"
    with pytest.raises(AttributeError, match=r"There is no output 'x'. There are: y."):
        _ = out.x


def test_everything_wrong_is_told_at_once_and_nothing_runs() -> None:
    CALLS.clear()
    graph = Graph(make=MakeX(), use=UseTool(), last=named(Sum(), y="w"))
    with pytest.raises(InputError) as caught:
        graph(sed=3, seed="three")
    assert {p.code for p in caught.value.problems} == {"unknown", "missing", "unbound", "value"}
    assert not CALLS and isinstance(caught.value, TypeError)


def test_a_value_given_replaces_the_node_that_makes_it() -> None:
    CALLS.clear()
    graph = Graph(make=MakeX(), double=XToY())
    assert graph(x=5).y == 10 and CALLS == ["x to y"]
    assert graph(x=6).y == 12 and len(graph.__dict__["_cache"]["without makers"]) == 1


def test_a_value_given_reaches_pinned_readers() -> None:
    graph = Graph(make=MakeX(), add=Add(), double=XToY()).wire("double.x", "make.x")
    assert graph(x=5).y == 10


def test_a_value_given_for_a_declared_output_is_no_problem() -> None:
    assert dict(Graph(make=MakeX(), double=XToY(), outputs=("x", "y"))(x=5)) == {"y": 10}


def test_a_name_that_the_call_does_not_use_is_a_note() -> None:
    graph = Graph(make=MakeX(), double=XToY())
    events = list(graph.stream(x=5, seed=3))
    assert [e.text for e in events if isinstance(e, Note)] == [
        "'seed' is not used with these values: nothing in this run reads it."
    ]
    with pytest.warns(UserWarning, match="'seed' is not used"):
        graph(x=5, seed=3)


def test_a_name_that_the_overlay_does_not_use_is_a_note() -> None:
    class Plain(Block):
        def __call__(self, x: int) -> Y:
            return Y(x)

    class Strong(Block):
        def __call__(self, x: int, strength: int = 1) -> Y:
            return Y(x * strength)

    graph = Graph(make=MakeX(), guide=Strong(), slots={"guider": ["guide"]})
    with pytest.warns(UserWarning, match="'strength' is not used with guider"):
        assert graph(guider=Plain(), strength=3).y == 3
    plain = Graph(make=MakeX(), guide=Plain(), slots={"guider": ["guide"]})
    assert plain(guider=Strong(), strength=3).y == 9


def test_work_that_nobody_reads_is_not_run_nor_asked_for() -> None:
    CALLS.clear()
    graph = Graph(make=MakeX(), y=MakeY(), sum=Sum(), outputs=("z",)).replace("sum", named(XToY(), y="z"))
    assert graph(seed=2).z == 4 and CALLS == ["make x", "x to y"]
    assert graph.check() == [], "a block that an edit left without a reader rests"


# ------------------------------------------------------------------------------------------------ bindings
def test_a_bound_graph_runs_and_stays_bound_through_edits() -> None:
    graph = Graph(use=UseTool(), last=YToZ()).bind(tool=Tool(3))
    assert graph(x=2).z == 7
    assert graph.replace("use", UseTool())(x=2).z == 7 and graph.insert("more", Add(), before="use")(x=2).z == 10


def test_binding_is_by_name_and_one_object_serves_all() -> None:
    graph = Graph(one=UseTool(), two=named(UseTool(), y="w"), three=named(UseTool(), y="v", tool="second"))
    assert dict(graph.bind(tool=Tool(2), second=Tool(5))(x=1)) == {"y": 2, "w": 2, "v": 5}


def test_the_narrowest_class_of_two_readers_is_needed() -> None:
    class Sharp(Block):
        tool: SharpTool = component()

        def __call__(self, y: int) -> X:
            return X(self.tool.apply(y))

    graph = Graph(use=UseTool(), sharp=Sharp())
    with pytest.raises(WireError, match=r"tool  is Tool, but use, sharp needs SharpTool"):
        graph.bind(tool=Tool())
    assert graph.bind(tool=SharpTool(2))(x=1).x == 4


def test_an_optional_component_may_be_absent() -> None:
    assert Graph(use=MayUseTool())(x=2).y == 2
    assert Graph(use=MayUseTool()).bind(tool=Tool(4))(x=2).y == 8
    assert Graph(use=MayUseTool()).bind(tool=None)(x=2).y == 2


def test_functions_bind_to_callable_components() -> None:
    class Score(Block):
        scorer: Callable[[int], int] = component()

        def __call__(self, x: int) -> Y:
            return Y(self.scorer(x))

    def double(x: int) -> int:
        return 2 * x

    def text(x: str) -> int:
        return len(x)

    assert Graph(score=Score()).bind(scorer=double)(x=2).y == 4
    assert Graph(score=Score()).bind(scorer=lambda x: x + 1)(x=2).y == 3  # pyright: ignore[reportUnknownLambdaType]  bare on purpose
    with pytest.raises(WireError, match=r"scorer  is function, but score needs \(int\) -> int"):
        Graph(score=Score()).bind(scorer=text)
    with pytest.raises(WireError, match="scorer  is int"):
        Graph(score=Score()).bind(scorer=3)


def test_a_handle_is_loaded_at_its_first_use_and_only_if_used() -> None:
    handle, unused = Handle(Tool(3)), Handle(Tool(1))
    graph = Graph(use=UseTool(), other=named(UseTool(), y="w", tool="second")).bind(tool=handle, second=unused)
    assert (handle.loads, unused.loads) == (0, 0)
    assert graph.only("y")(x=1).y == 3 and (handle.loads, unused.loads) == (1, 0)
    events = list(graph.stream(x=1))
    assert [(e.path, e.name) for e in events if isinstance(e, ComponentLoaded)] == [
        ("use", "tool"),
        ("other", "second"),
    ]


def test_a_handle_that_is_not_ready_stops_the_call_before_anything_runs() -> None:
    from sfumato.graph import LoadError

    CALLS.clear()
    graph = Graph(make=MakeX(), use=UseTool()).bind(tool=Handle(Tool(), ready=LoadError("no such file")))
    assert [(p.code, p.message) for p in graph.check()] == [("not-ready", "no such file")]
    with pytest.raises(LoadError, match="no such file"):
        graph()
    assert not CALLS


def test_a_handle_of_another_class_is_refused() -> None:
    with pytest.raises(WireError, match="tool  is int, but use needs Tool"):
        Graph(use=UseTool()).bind(tool=Handle(3))


def test_a_range_or_an_array_is_a_list_of_numbers() -> None:
    class Total(Block):
        def __call__(self, numbers: int | Sequence[int] | None = None) -> X:
            return X(sum(numbers) if isinstance(numbers, list) else -1)

    graph = Graph(total=Total())
    assert graph(numbers=range(4)).x == 6 and graph(numbers=np.arange(4)).x == 6
    with pytest.raises(InputError, match=r"takes int \| Sequence\[int\] \| None, got range\(0, 1099511627776\)"):
        graph(numbers=range(2**40))


# ------------------------------------------------------------------------------------------------ overlays
def test_a_swap_holds_for_one_call_and_is_resolved_once() -> None:
    graph = Graph(add=Add(), double=XToY(), slots={"step": ["add"]})
    for _ in range(3):
        assert graph(x=1, step=Add(n=10)).y == 22
    assert graph(x=1).y == 4 and len(graph.__dict__["_cache"]["overlay"]) == 1
    assert graph(x=1, step=Add(n=11)).y == 24 and graph(x=1, step=Add(n=10)).y == 22
    assert len(graph.__dict__["_cache"]["overlay"]) == 2


def test_a_component_swapped_for_one_call() -> None:
    graph = Graph(use=UseTool()).bind(tool=Tool(2))
    assert (graph(x=1, tool=Tool(5)).y, graph(x=1).y) == (5, 2)


def test_a_component_that_cannot_be_hashed_can_be_swapped() -> None:
    class Odd(Tool):
        __hash__ = None  # type: ignore[assignment]  # on purpose

    odd = Odd(7)
    graph = Graph(use=UseTool())
    assert graph(x=1, tool=odd).y == 7 and graph(x=1, tool=odd).y == 7 and graph(x=1, tool=Odd(8)).y == 8


def test_a_slot_may_stand_for_several_nodes() -> None:
    body = Graph(step=AddItem(), more=Add())
    loop = Loop(over="items", each="item", carry=("x",), body=body)
    graph = Graph(first=Add(), loop=loop, slots={"plus": ["first", "loop.more"]})
    assert graph(x=0, items=[0, 0]).x == 3 and graph(x=0, items=[0, 0], plus=Add(n=10)).x == 30
    assert graph.using(plus=Add(n=10))(x=0, items=[0, 0]).x == 30


def test_what_comes_into_a_slot_goes_by_the_names_that_stood_there() -> None:
    """A preset renames a guider's scale where another block's input has that name."""

    class Times(Block):
        def __call__(self, x: int, n: int = 1, more: int = 0) -> X:
            return X(x * n + more)

    graph = Graph(first=Times(), second=named(Times(), n="factor"), slots={"step": ["second"]})
    assert graph(x=1, n=3, factor=2).x == 6
    assert graph(x=1, n=3, factor=2, step=Times()).x == 6 and graph(x=1, n=3, step=Add(n=5)).x == 8
    assert graph(x=1, n=3, step=named(Times(), n="mine"), mine=5).x == 15, "a block with names of its own keeps them"


# ------------------------------------------------------------------------------------------------ simplified blocks
class Keep(Block):
    """x, as it is"""

    def __call__(self, x: int) -> X:
        return X(x)


class AddTimes(Block):
    """x + times y; with times 0 nothing of y is read."""

    times: int = knob(1)

    def __call__(self, x: int, y: int) -> X:
        CALLS.append("add times")
        return X(x + self.times * y)

    def simplified(self) -> Keep | None:
        return None if self.times > 0 else Keep()


@pytest.mark.parametrize("how", ["given", "by default", "renamed", "in a loop"])
def test_what_a_block_does_not_read_with_these_values_is_not_made(how: str) -> None:
    add = AddTimes(times=0 if how == "by default" else 1)
    block = named(add, times="weight") if how == "renamed" else add
    graph = Graph(y=MakeY(), add=block, outputs=("x",))
    if how == "in a loop":
        body = Graph(item=AddItem(), add=block)
        graph = Graph(y=MakeY(), turns=Loop(over="items", each="item", carry=("x",), body=body), outputs=("x",))
    nothing: dict[str, Any] = {"given": {"times": 0}, "renamed": {"weight": 0}, "in a loop": {"times": 0}}.get(how, {})
    items: dict[str, Any] = {"items": [0, 0]} if how == "in a loop" else {}
    CALLS.clear()
    assert graph(x=1, seed=5, **nothing, **items).x == 1, "an input that only the idle node reads is no problem"
    assert "make y" not in CALLS and "add times" not in CALLS
    if nothing:
        assert graph(x=1, **items).x == (61 if items else 31) and "make y" in CALLS


def test_a_knob_that_is_known_only_while_running_simplifies_nothing() -> None:
    class Times(NamedTuple):
        times: int

    class MakeTimes(Block):
        def __call__(self) -> Times:
            return Times(0)

    CALLS.clear()
    assert Graph(y=MakeY(), times=MakeTimes(), add=AddTimes(times=0), outputs=("x",))(x=1).x == 1
    assert CALLS == ["make y", "add times"]


def test_overlays_are_bounded() -> None:
    graph = Graph(add=Add(), slots={"step": ["add"]})
    for n in range(100):
        assert graph(x=0, step=Add(n=n)).x == n
    assert len(graph.__dict__["_cache"]["overlay"]) <= 64


# ------------------------------------------------------------------------------------------------ broken blocks
def test_a_block_that_gives_something_else_is_broken() -> None:
    class Lies(Block):
        def __call__(self, x: int) -> Y:
            return X(x)  # type: ignore[return-value]  # on purpose

    with pytest.raises(BrokenBlock, match=r"^lies \(Lies\) gave X, but its signature says Y.$"):
        Graph(lies=Lies())(x=1)
