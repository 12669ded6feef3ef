"""A schedule is walked by the scheduler that planned it: blocks that share a plan hold one component."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import pytest

from sfumato.graph import Block, Graph, Loop, Map, WireError, component, named


@dataclass(frozen=True)
class Walker:
    __belongs_to__: ClassVar[str] = "walk"

    stride: int = 1


@dataclass(frozen=True)
class Place:
    __belongs_to__: ClassVar[str] = "walk"

    at: int


class Path(Sequence[Place]):
    __belongs_to__: ClassVar[str] = "walk"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Place:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        if index >= 3:
            raise IndexError
        return Place(index)


class Planned(NamedTuple):
    path: Path


class Moved(NamedTuple):
    x: int


class Plan(Block):
    walker: Walker = component()

    def __call__(self) -> Planned:
        return Planned(Path())


class Cut(Block):
    """Reads and gives a path, and holds no walker."""

    def __call__(self, path: Path) -> Planned:
        return Planned(path)


class Move(Block):
    walker: Walker = component()

    def __call__(self, x: int, place: Place) -> Moved:
        return Moved(x + self.walker.stride)


def moving(move: Block) -> Graph:
    return Graph(plan=Plan(), cut=Cut(), walk=Loop(over="path", each="place", carry=("x",), body=Graph(move=move)))


SECOND = named(Move(), walker="second")
REFUSED = (
    "walk.move (second)  is Walker with other settings, but plan (walker) is Walker, and both work on one walk. Bind "
    "the same object to both, or give each its own walk."
)


def test_two_unlike_components_on_one_plan_are_refused_when_they_are_bound() -> None:
    with pytest.raises(WireError) as error:
        moving(SECOND).bind(walker=Walker(), second=Walker(2))
    assert str(error.value) == REFUSED


def test_equal_components_are_one() -> None:
    assert moving(SECOND).bind(walker=Walker(2), second=Walker(2))(x=0).x == 6
    assert moving(Move()).bind(walker=Walker(2))(x=0).x == 6


def test_a_swap_of_one_of_them_is_refused_and_of_both_is_not() -> None:
    graph = moving(SECOND).bind(walker=Walker(), second=Walker())
    with pytest.raises(WireError, match="both work on one walk"):
        graph(x=0, second=Walker(2))
    assert graph(x=0, walker=Walker(2), second=Walker(2)).x == 6


def test_a_block_that_brings_another_component_is_refused_when_the_graph_is_made() -> None:
    with pytest.raises(WireError, match=r"walk.move \(walker\)  is Walker with other settings, but plan \(walker\)"):
        Graph(plan=Plan(walker=Walker()), walk=moving(Move(walker=Walker(2)))["walk"])
    bound = moving(Move()).bind(walker=Walker())
    with pytest.raises(WireError, match="both work on one walk"):
        bound.replace("walk.move", Move(walker=Walker(2)))
    assert bound.replace("walk.move", Move(walker=Walker()))(x=0).x == 3


def test_each_plan_has_its_own_component() -> None:
    second = Loop(over="other", each="place", carry=("x",), body=Graph(move=SECOND))
    graph = Graph(
        plan=Plan(),
        walk=moving(Move())["walk"],
        plan_again=named(Plan(), walker="second", path="other"),
        walk_again=second,
    )
    assert graph.bind(walker=Walker(), second=Walker(2))(x=0).x == 9
    with pytest.raises(WireError, match="both work on one walk"):
        graph.wire("walk_again.other", "plan.path").bind(walker=Walker(), second=Walker(2))


def test_a_map_over_a_plan_shares_it_too() -> None:
    body = Graph(move=SECOND)
    graph = Graph(plan=Plan(), each=Map(over="path", each="place", body=body))
    with pytest.raises(WireError, match="both work on one walk"):
        graph.bind(walker=Walker(), second=Walker(2))
