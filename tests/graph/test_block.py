"""A block: its fields, its ports, equality, pickles and copies."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from typing import Any, NamedTuple

import pytest

from sfumato.graph import Block, ConfigError, Graph, Loop, Memory, Running, Unbound, component, knob, named
from sfumato.graph.fields import EMPTY

from .fakes import Add, AddItem, Count, MakeX, Notes, Scale, Sum, Tool, UseTool, X, XToY, Y


class Config(Block):
    size: int | bool = 1
    table: Mapping[str, Any] | None = None

    def __call__(self, x: int) -> Y:
        return Y(x)


class Takes(NamedTuple):
    y: int
    past: Memory[int]


class Everything(Block):
    tool: Tool = component()
    strength: float = knob(1.0)
    size: int = 8

    def __call__(self, x: int, running: Running, scale: float = 1.0, past: Memory[int] = 0) -> Takes:
        return Takes(x, past)


def test_a_block_is_made_and_called() -> None:
    assert Add(n=2)(3) == X(5)


def test_a_block_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Add().n = 2  # type: ignore[misc]  # on purpose


def test_its_ports_are_read_from_its_call() -> None:
    s = Everything().signature
    assert {n: str(p) for n, p in s.inputs.items()} == {"x": "int", "scale": "float = 1.0", "strength": "float = 1.0"}
    assert {n: str(p) for n, p in s.outputs.items()} == {"y": "int"}
    assert {n: str(p) for n, p in s.components.items()} == {"tool": "Tool"}
    assert list(s.memory) == ["past"] and s.running == "running"


def test_a_component_that_it_has_is_not_needed() -> None:
    assert not UseTool(tool=Tool()).signature.components


def test_a_knob_defaults_to_its_field() -> None:
    assert Scale(factor=3.0).signature.inputs["factor"].default == 3.0
    assert Graph(scale=Scale(factor=3.0))(x=2).y == 6
    assert Graph(scale=Scale(factor=3.0))(x=2, factor=5.0).y == 10


def test_an_earlier_block_can_turn_a_knob() -> None:
    class Factor(NamedTuple):
        factor: float

    class Decide(Block):
        def __call__(self, x: int) -> Factor:
            return Factor(float(x))

    assert Graph(decide=Decide(), scale=Scale())(x=3).y == 9


def test_an_empty_component_says_what_to_do() -> None:
    with pytest.raises(
        Unbound, match=r"Asked an empty component for 'apply'. Pass the component to the block, or bind"
    ):
        UseTool()(1)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Config(size=1), Config(size=True)),
        (Config(table={"a": 1}), Config(table={"a": True})),
        (Config(table={"a": (1,)}), Config(table={"a": [1]})),
        (Config(table={"a": 1.0}), Config(table={"a": 1})),
        (UseTool(tool=Tool()), UseTool(tool=Tool())),
        (Add(), Add(n=2)),
        (Add(), MakeX()),
        (Scale(), Scale(factor=3)),
    ],
)
def test_unlike_blocks(a: Block, b: Block) -> None:
    assert a != b


def test_like_blocks_are_equal_and_hash_alike() -> None:
    tool = Tool()
    for a, b in [
        (Add(n=2), Add(n=2)),
        (Scale(factor=2), Scale(factor=2.0)),
        (UseTool(tool=tool), UseTool(tool=tool)),
        (Config(table={"a": 1}), Config(table={"a": 1})),
        (named(Sum(), x="a"), named(Sum(), x="a")),
    ]:
        assert a == b and hash(a) == hash(b)


def test_a_list_in_the_config_cannot_be_hashed_and_the_text_says_so() -> None:
    with pytest.raises(ConfigError, match="Config holds config that cannot be hashed"):
        hash(Config(table={"a": {1, 2}}))


GRAPH = Graph(
    make=MakeX(), loop=Loop(over="items", each="item", carry=("x",), body=Graph(step=AddItem(), count=Count()))
)


@pytest.mark.parametrize("block", [Add(n=3), UseTool(), Everything(), GRAPH, named(Sum(), x="a"), Notes()])
def test_blocks_and_graphs_survive_a_pickle(block: Block) -> None:
    _ = block.signature
    back = pickle.loads(pickle.dumps(block))
    assert back == block and back is not block
    assert list(back.signature.inputs) == list(block.signature.inputs)


def test_what_is_found_out_about_a_graph_is_not_pickled() -> None:
    graph = Graph(make=MakeX(), double=XToY())
    small = len(pickle.dumps(graph))
    graph(seed=1)
    graph.using()
    assert len(pickle.dumps(graph)) == small


def test_an_empty_component_stays_empty_in_a_pickle() -> None:
    assert pickle.loads(pickle.dumps(UseTool())).tool is EMPTY


def test_a_copy_of_what_never_changes_is_itself() -> None:
    block = UseTool(tool=Tool())
    assert copy.copy(block) is block and copy.deepcopy(block) is block and copy.deepcopy(GRAPH) is GRAPH


def test_config_goes_out_and_comes_back() -> None:
    assert Add.from_config({"n": 4, "_class_name": "Add"}) == Add(n=4)
    assert Add(n=4).to_config() == {"_class_name": "Add", "n": 4}


def test_config_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"Add has no 'm'. There are: n."):
        Add.from_config({"m": 4})
    with pytest.raises(ConfigError, match=r"Add.n takes int, got 'four'."):
        Add.from_config({"n": "four"})
    assert isinstance(Scale.from_config({"factor": 2}).factor, float)


def test_ports_are_read_once_for_a_class() -> None:
    assert Add(n=1).signature is Add(n=2).signature
