"""Edits that add outputs, slots that follow a second loop, and values that stand for the end of a chain."""

from typing import NamedTuple

import pytest

from sfumato.graph import Block, Graph, InputError, Loop, Map, WireError

from .fakes import AddItem, MakeX, X, XToY


class Score(NamedTuple):
    score: int


class Rate(Block):
    def __call__(self, y: int) -> Score:
        return Score(y * 100)


class CountTurns(Block):
    def __call__(self, x: int, score: int = 0) -> Score:
        return Score(score + 1)


class Last(Block):
    def __call__(self, x: int) -> Score:
        return Score(x)


PLAIN = Graph(make=MakeX(), double=XToY(), outputs=("y",))


def test_the_error_for_an_unread_output_shows_what_to_pass() -> None:
    with pytest.raises(WireError, match=r"or make it an output: outputs=\('score',\)\.$"):
        PLAIN.insert("rate", Rate(), after="double")
    assert PLAIN.insert("rate", Rate(), after="double", outputs=("score",)).outputs.keys() == {"y", "score"}
    with pytest.raises(WireError, match=r"or make it an output: outputs=\('y', 'score'\)\.$"):
        Graph(make=MakeX(), double=XToY(), rate=Rate(), outputs=("y",))
    assert Graph(make=MakeX(), double=XToY(), rate=Rate(), outputs=("y", "score")).outputs.keys() == {"y", "score"}


def test_an_output_is_added_only_once_and_must_be_given() -> None:
    assert PLAIN.insert("rate", Rate(), outputs=("y", "score")).declared == ("y", "score")
    with pytest.raises(WireError, match=r"scor  is declared as an output, but no node gives it. Did you mean 'score'"):
        PLAIN.insert("rate", Rate(), outputs=("scor",))


def test_a_block_that_replaces_another_can_have_an_output_more() -> None:
    class Both(NamedTuple):
        y: int
        score: int

    class DoubleAndRate(Block):
        def __call__(self, x: int) -> Both:
            return Both(2 * x, 7)

    out = PLAIN.replace("double", DoubleAndRate(), outputs=("score",))(seed=1)
    assert dict(out) == {"y": 2, "score": 7}


def test_an_output_inside_a_graph_is_one_of_the_graphs_around_it() -> None:
    graph = Graph(make=MakeX(), inside=Graph(double=XToY(), outputs=("y",)), outputs=("y",))
    more = graph.insert("rate", Rate(), after="inside.double", outputs=("score",))
    assert dict(more(seed=1)) == {"y": 2, "score": 200}


def test_a_loop_carries_an_output_that_is_added_inside_where_its_turns_read_it() -> None:
    loop = Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem()))
    graph = Graph(make=MakeX(), loop=loop, outputs=("x",))
    with pytest.raises(WireError, match=r"loop.count  .* or make it an output: outputs=\('score',\)"):
        graph.insert("count", CountTurns(), after="loop.step")
    counted = graph.insert("count", CountTurns(), after="loop.step", outputs=("score",))
    assert counted(seed=1, items=[1, 2, 3]).score == 3
    with pytest.raises(WireError, match=r"no turn would read it. Give a block the input 'score', with a default"):
        graph.insert("last", Last(), after="loop.step", outputs=("score",))
    with pytest.raises(WireError, match=r"or make it an output: carry=\('x', 'score'\)"):
        Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem(), count=CountTurns()))


def test_a_map_gives_a_list_of_an_output_that_is_added_inside() -> None:
    body = Graph(double=XToY(), outputs=("y",))
    graph = Graph(all=Map(over="many", each="x", body=body), outputs=("y",))
    more = graph.insert("rate", Rate(), after="all.double", outputs=("score",))
    assert more(many=[1, 2]).score == [200, 400]


# ------------------------------------------------------------------------------------------------ slots
def looped(name: str) -> Graph:
    return Graph({name: Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem()))})


SLOTTED = Graph(
    make=MakeX(),
    loop=Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem())),
    slots={"how": ["loop.step"]},
)


class Keep(Block):
    def __call__(self, x: int, item: int) -> X:
        return X(x)


def test_a_slot_covers_a_second_loop_that_is_inserted() -> None:
    twice = SLOTTED.insert("again", looped("more"), after="loop")
    assert twice.slots == {"how": ("loop.step", "again.more.step")}
    assert twice(seed=1, items=[1, 2]).x == 7
    assert twice(seed=1, items=[1, 2], how=Keep()).x == 1
    assert twice.remove("again").slots == SLOTTED.slots
    assert twice.rename("again", "second").slots == {"how": ("loop.step", "second.more.step")}


def test_a_slot_covers_no_node_of_another_name_or_with_other_outputs() -> None:
    other = Graph(loop=Loop(over="items", each="item", carry=("x",), body=Graph(add=AddItem())))
    assert SLOTTED.insert("again", other, after="loop").slots == SLOTTED.slots
    unlike = Graph(step=XToY())
    assert SLOTTED.insert("again", unlike, after="loop").slots == SLOTTED.slots


# ------------------------------------------------------------------------------------------------ values
class Grow(Block):
    def __call__(self, x: int, speed: int) -> X:
        return X(x * speed)


CHAIN = Graph(make=MakeX(), grow=Grow(), double=XToY(), outputs=("y",))


def test_a_value_replaces_the_whole_chain_where_the_call_passes_nothing_for_the_chain() -> None:
    assert CHAIN(seed=1, speed=3).y == 6
    assert CHAIN(x=5, speed=3).y == 30  # it replaces the node that makes it, and is changed as usual
    assert CHAIN(x=5).y == 10
    assert CHAIN.only("y")(x=5).y == 10


def test_a_value_does_not_replace_the_chain_where_the_call_passes_more() -> None:
    class Slow(Block):
        def __call__(self, x: int, speed: int, seed: int = 0) -> X:
            return X(x * speed + seed)

    with pytest.raises(InputError, match="speed  needs a value"):
        CHAIN.replace("grow", Slow())(x=5, seed=1)


def test_a_value_does_not_replace_the_chain_where_the_rest_needs_more() -> None:
    class Shade(Block):
        def __call__(self, y: int, tone: int) -> Score:
            return Score(y + tone)

    graph = Graph(make=MakeX(), grow=Grow(), double=XToY(), shade=Shade())
    with pytest.raises(InputError, match="speed") as error:
        graph(x=5)
    assert [p.place for p in error.value.problems] == ["speed", "tone"]
    assert graph(x=5, tone=1).score == 11
