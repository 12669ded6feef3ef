"""The fields of a block are checked when it is made, changed, read from a config, and by a call that sets its knobs."""

import math
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, NamedTuple, cast

import pytest
from annotated_types import Ge, Le

from sfumato.graph import Above, Block, ConfigError, Graph, InputError, component, knob, named
from sfumato.graph.ports import Malformed

from .fakes import Tool, UseTool, X, XToY, Y


class Fade(Block):
    """Fields of several kinds, of which two must agree."""

    scale: float = knob(1.0)
    start: Annotated[float, Ge(0), Le(1)] = knob(0.0)
    stop: Annotated[float, Ge(0), Le(1), Above("start", or_equal=True)] = knob(1.0)
    sizes: tuple[int, ...] = (1,)
    count: int

    def __call__(self, x: int) -> Y:
        return Y(x * self.count)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a number in quotes": ({"scale": "7"}, "Fade.scale takes float, got '7'."),
    "no number": ({"scale": math.nan}, "Fade.scale takes float (nan is not a number), got nan."),
    "none in a tuple": ({"sizes": (1, "2")}, "Fade.sizes takes tuple[int, …] ([1]: input should be a valid integer), "),
    "true for a count": ({"count": True}, "Fade.count takes int, got True."),
    "above its range": ({"start": 1.5}, "Fade.start takes float (input should be less than or equal to 1), got 1.5."),
    "an end before the start": ({"start": 0.9, "stop": 0.1}, "Fade.stop needs at least start (0.9), got 0.1."),
    "an unknown name": ({"scael": 1.0}, "Fade has no 'scael'. Did you mean 'scale'? There are: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_field_is_refused_in_every_way_to_make_a_block(what: str) -> None:
    values, text = WRONG[what]
    for make in (
        lambda: Fade(**cast(Any, {"count": 1, **values})),
        lambda: Fade.from_config({"count": 1, **values}),
        lambda: Fade(count=1).with_(**values),
        lambda: replace(Fade(count=1), **values),
    ):
        with pytest.raises(ConfigError, match=re.escape(text)):
            make()


def test_all_wrong_fields_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Fade(scale="7", start=2.0)  # pyright: ignore[reportCallIssue, reportArgumentType]  on purpose
    assert str(error.value) == (
        "Fade.count needs a value: int. Fade.scale takes float, got '7'. "
        "Fade.start takes float (input should be less than or equal to 1), got 2.0."
    )


def test_a_value_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Fade takes its fields by name, got 7.0 without a name. Write Fade\(scale="):
        Fade(7.0)  # pyright: ignore[reportCallIssue]  on purpose


def test_values_become_what_their_types_want() -> None:
    block = Fade(count=1, scale=2, sizes=[3, 4])  # pyright: ignore[reportArgumentType]  a list is as good
    assert type(block.scale) is float and block.sizes == (3, 4) and hash(block)


def test_equal_ends_and_infinity_are_values() -> None:
    assert Fade(count=1, start=0.5, stop=0.5, scale=math.inf).scale == math.inf


def test_a_call_whose_knobs_do_not_agree_is_refused_before_anything_runs() -> None:
    ran: list[int] = []

    class Note(Block):
        def __call__(self, seed: int) -> X:
            ran.append(seed)
            return X(seed)

    inner = Graph(fade=named(Fade(count=1), stop="end"))
    for graph, path in (
        (Graph(note=Note(), fade=named(Fade(count=1), stop="end")), "fade"),
        (Graph(note=Note(), inside=inner), "inside.fade"),
    ):
        with pytest.raises(InputError, match=rf"^{path}  Fade.stop needs at least start \(0.5\), got 0.25"):
            graph(seed=1, start=0.5, end=0.25)
        with pytest.raises(InputError, match=r"stop needs at least start \(0.0\)|greater than or equal to 0"):
            graph(seed=1, end=-1.0)
        assert not ran
        assert graph(seed=1, start=0.25, end=0.5).y == 1 and ran.pop() == 1


def test_a_post_init_sees_the_knobs_of_a_call() -> None:
    class Even(Block):
        number: int = knob(2)

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ConfigError(f"Even.number needs an even number, got {self.number}.")

        def __call__(self) -> Y:
            return Y(self.number)

    assert Graph(even=Even())(number=4).y == 4
    with pytest.raises(InputError, match=r"even  Even.number needs an even number, got 3"):
        Graph(even=Even())(number=3)


@pytest.mark.parametrize("value", ["a name", 3, None, {"size": 1}, Tool])
def test_a_component_is_an_object(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"UseTool.tool needs Tool, got .*bind it to the graph: graph.bind\(tool=…\)"):
        UseTool(tool=value)


def test_any_object_may_stand_for_a_component() -> None:
    class Fake:
        def apply(self, x: int) -> int:
            return x

    class Optional(Block):
        tool: Tool | None = component(default=None)

        def __call__(self) -> Y:
            return Y(1)

    assert UseTool(tool=Fake()) and Optional(tool=None)  # pyright: ignore[reportArgumentType]  a fake


def test_a_default_is_checked_too() -> None:
    class Wrong(Block):
        tile: int = None  # pyright: ignore[reportAssignmentType]  on purpose

        def __call__(self, x: int) -> Y:
            return Y(x)

    with pytest.raises(Malformed, match=r"Wrong.tile takes int, but its default is None."):
        Wrong()


def test_a_field_without_a_type_is_refused_when_the_class_is_made() -> None:
    text = r"Half.scale has no type, so it would be no field. Write scale: float = …, or ClassVar\[float\]"
    for value in (0.5, (1, 2), None, knob(0.5), component()):
        with pytest.raises(Malformed, match=text):
            type("Half", (XToY,), {"scale": value})


def test_a_new_default_without_a_type_is_refused() -> None:
    with pytest.raises(Malformed, match=r"Slow.scale has no type"):
        type("Slow", (Fade,), {"scale": 0.5})


def test_constants_methods_and_classes_are_no_fields() -> None:
    class Fine(Block):
        limit: ClassVar[int] = 3

        class Result(NamedTuple):
            y: int

        @property
        def twice(self) -> int:
            return 2 * self.limit

        @staticmethod
        def half(x: int) -> int:
            return x // 2

        def __call__(self, x: int) -> Y:
            return Y(x)

    class Finer(Fine):
        limit = 4

    assert Finer().twice == 8 and not Finer().config()


def test_a_call_that_is_no_plain_function_is_refused_when_the_class_is_made() -> None:
    def generator(self: Any, x: int) -> Iterator[Y]:
        yield Y(x)

    async def later(self: Any, x: int) -> Y:
        return Y(x)

    async def stream(self: Any, x: int) -> AsyncIterator[Y]:
        yield Y(x)

    for call, text in ((generator, "a generator"), (later, "async"), (stream, "a generator")):
        for options in ({}, {"abstract": True}):
            with pytest.raises(Malformed, match=rf"Bad.__call__ is {text}"):
                type("Bad", (Block,), {"__call__": call}, **options)


def test_a_call_that_comes_from_another_class_is_checked_too() -> None:
    class Mixin:
        def __call__(self, *numbers: int) -> Y:
            return Y(sum(numbers))

    with pytest.raises(Malformed, match=r"Mixed.__call__ takes \*numbers"):
        type("Mixed", (Mixin, Block), {})


def test_a_run_sets_knobs_without_checking_them_again() -> None:
    assert Fade(count=2).filled({"count": 3})(1) == Y(3)
