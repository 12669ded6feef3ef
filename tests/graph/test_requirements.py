"""Requirements of a block are checked against the components behind the functions that it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import pytest

from sfumato.graph import Block, Graph, Loop, Map, Port, WireError, component, named
from sfumato.graph.requirements import Requirement

from .fakes import X

Lift = Annotated[Callable[[int], int], Port("lift")]


class Crane:
    def __init__(self, reach: int) -> None:
        self.reach = reach

    def __call__(self, x: int) -> int:
        return x + self.reach


@dataclass(frozen=True)
class Reach(Requirement):
    least: int

    def violation(self, component: Any) -> str | None:
        if isinstance(component, Crane) and component.reach < self.least:
            return f"needs a reach of {self.least}, and the crane has {component.reach}."
        return None


class Made(NamedTuple):
    lift: Lift


class MakeLift(Block):
    crane: Crane = component()

    def __call__(self) -> Made:
        return Made(self.crane)


class Slower(Block):
    def __call__(self, lift: Lift) -> Made:
        def slower(x: int) -> int:
            return lift(x)

        return Made(slower)


class Use(Block):
    least: int = 0

    def __post_init__(self) -> None:
        self.__dict__["reach"] = Reach(self.least)

    def __call__(self, lift: Lift, x: int) -> X:
        return X(lift(x))


class UseItem(Block):
    least: int = 0

    def __post_init__(self) -> None:
        self.__dict__["reach"] = Reach(self.least)

    def __call__(self, lift: Lift, x: int, item: int) -> X:
        return X(lift(x) + item)


MAKE, USE = MakeLift(crane=Crane(3)), Use(least=5)
BODY = Graph(use=UseItem(least=5), outputs=("x",))
WRONG: dict[str, dict[str, Block]] = {
    "beside": {"make": MAKE, "use": USE},
    "behind another": {"make": MAKE, "slower": Slower(), "use": USE},
    "renamed": {"make": named(MAKE, lift="hoist"), "use": named(USE, lift="hoist")},
    "in a loop": {"make": MAKE, "loop": Loop(over="items", each="item", carry=("x",), body=BODY)},
    "in a map": {"make": MAKE, "map": Map(over="items", each="item", body=BODY)},
}


@pytest.mark.parametrize("where", WRONG)
def test_a_component_behind_a_function_of_any_kind_is_checked(where: str) -> None:
    with pytest.raises(WireError) as caught:
        Graph(WRONG[where], outputs=("x",))
    (problem,) = caught.value.problems
    assert problem.message == "needs a reach of 5, and the crane has 3. It meets make (crane)."
    assert problem.place.endswith("use (reach)")


def test_a_component_that_meets_the_requirement_is_fine() -> None:
    assert Graph(make=MakeLift(crane=Crane(8)), use=USE, outputs=("x",))(x=1).x == 9


def test_two_functions_of_one_graph_are_two() -> None:
    two = Graph(
        make=MakeLift(crane=Crane(3)),
        other=named(MakeLift(crane=Crane(9)), lift="hoist"),
        use=Use(least=1),
        more=named(Use(least=5), lift="hoist"),
        outputs=("x",),
    )
    assert two(x=0).x == 12
