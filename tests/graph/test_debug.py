"""What `debug()` checks in a run, and what every run says about numbers that are not finite."""

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.graph import Block, BrokenBlock, Graph, Loop, NotFinite, component, debug
from sfumato.graph.events import Note, RunFinished, TurnFinished


# --------------------------------------------------------------------------------------------------------------- values
class Pair(NamedTuple):
    both: Float[Tensor, "batch wide"]


class Join(Block):
    def __call__(self, a: Float[Tensor, "batch n"], b: Float[Tensor, "batch m"]) -> Pair:
        return Pair(torch.cat([a, b[: len(a)]], 1))


def test_debug_checks_shapes_across_ports() -> None:
    graph = Graph(join=Join())
    a, b = torch.zeros(2, 3), torch.zeros(4, 1)
    assert graph(a=a, b=b).both.shape == (2, 4)
    with debug(), pytest.raises(BrokenBlock, match="Join: input 'b' has batch = 4, but input 'a' has batch = 2"):
        graph(a=a, b=b)
    with (
        debug(),
        pytest.raises(BrokenBlock, match=r"Join: input 'a' is torch.int64 of shape \(2, 3\), but its type is Float"),
    ):
        graph(a=a.long(), b=b)
    with debug():
        assert graph(a=a, b=b[:2]).both.shape == (2, 4)


class Named(NamedTuple):
    name: str
    size: int
    rows: Sequence[int]


class Lies(Block):
    name: Any = "a"
    size: Any = 1
    rows: Any = (1, 2)

    def __call__(self) -> Named:
        return Named(self.name, self.size, self.rows)


@pytest.mark.parametrize(
    ("lies", "text"),
    [
        ({"name": 7}, r"Lies: output 'name' takes str, got 7 \(int\)."),
        ({"size": "many"}, r"Lies: output 'size' takes int, got 'many' \(str\)."),
        ({"rows": [1, "b"]}, r"Lies: output 'rows' takes Sequence\[int\] .*, got \[1, 'b'\] \(list\)."),
    ],
)
def test_debug_checks_values_that_are_no_tensors(lies: dict[str, Any], text: str) -> None:
    graph = Graph(lies=Lies(**lies))
    assert graph()
    with debug(), pytest.raises(BrokenBlock, match=f"^{text}"):
        graph()
    with debug():
        assert Graph(lies=Lies())().name == "a"


def test_debug_refuses_another_value_where_a_tensor_is_declared() -> None:
    class Lists(Block):
        def __call__(self) -> Pair:
            return Pair([[1.0]])  # type: ignore[arg-type]  # on purpose

    with debug(), pytest.raises(BrokenBlock, match=r"^Lists: output 'both' takes Float.* got \[\[1.0\]\] \(list\)."):
        Graph(lists=Lists())()


# ------------------------------------------------------------------------------------------------ not finite numbers
class Net(nn.Module):
    """Two layers; the second overflows in half precision."""

    def __init__(self, weight: float = 1.0, dtype: torch.dtype = torch.float16) -> None:
        super().__init__()
        first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(first.weight, 1.0)
        nn.init.constant_(second.weight, weight)
        self.body = nn.Sequential(first, second).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.to(self.dtype)).float()


class Numbers(NamedTuple):
    x: Float[Tensor, "batch n"]


class UseNet(Block):
    net: Net = component()

    def __call__(self, x: Float[Tensor, "batch n"]) -> Numbers:
        return Numbers(self.net(x))


class Scaled(NamedTuple):
    scale: Callable[[Tensor], Tensor]


class MakeScale(Block):
    net: Net = component()

    def __call__(self) -> Scaled:
        return Scaled(self.net)


class Scale(Block):
    def __call__(self, x: Float[Tensor, "batch n"], scale: Callable[[Tensor], Tensor], item: int) -> Numbers:
        return Numbers(scale(x))


ONE = torch.ones(1, 1)


def loop(net: Net) -> Graph:
    """Each turn multiplies by the net's weight, through a function as denoisers are."""
    body = Graph(make=MakeScale(), scale=Scale())
    return Graph(turns=Loop(over="items", each="item", carry=("x",), body=body)).bind(net=net)


def test_a_run_says_which_node_and_turn_gave_numbers_that_are_not_finite_first() -> None:
    text = (
        r"turns.scale gave NaN or infinite numbers \(x, float32, turn 2 of 'turns'\). net is float16: load it in "
        r"bfloat16 or float32, with dtype= of sf.load. A run within sf.debug\(\) finds the first layer."
    )
    with pytest.warns(UserWarning, match=f"^{text}$"):
        assert loop(Net(300.0))(x=ONE, items=[1, 2, 3]).x.isinf().all()
    notes = [event.text for event in loop(Net(300.0)).stream(x=ONE, items=[1, 2, 3]) if isinstance(event, Note)]
    assert len(notes) == 1 and notes[0].startswith("turns.scale gave")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop(Net(300.0, torch.float32))(x=ONE, items=[1, 2, 3])


def test_an_error_after_numbers_that_are_not_finite_says_so_too() -> None:
    class Refuse(Block):
        def __call__(self, x: Float[Tensor, "batch n"]) -> Numbers:
            raise ValueError("too large")

    graph = Graph(use=UseNet(), refuse=Refuse()).bind(net=Net(70000.0))
    with pytest.raises(ValueError, match=r"^too large") as error:
        graph(x=ONE)
    assert error.value.__notes__[-1].startswith("  use gave NaN or infinite numbers (x, float32). net is")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_input_that_is_not_finite_is_named(bad: float) -> None:
    with pytest.warns(UserWarning, match=r"^The input x has NaN or infinite numbers \(float32\).$"):
        Graph(use=UseNet()).bind(net=Net())(x=ONE * bad)


def test_numbers_are_not_read_while_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a number waits for its device, which then has nothing to do."""
    reads: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "cpu"):
        real = getattr(Tensor, name)

        def read(self: Tensor, *args: Any, _name: str = name, _real: Any = real) -> Any:
            reads.append(_name)
            return _real(self, *args)

        monkeypatch.setattr(Tensor, name, read)
    run = loop(Net(1.0)).stream(x=ONE, items=list(range(9)))
    turns = 0
    for event in run:
        turns += isinstance(event, TurnFinished)
        assert not (reads if not isinstance(event, Note | RunFinished) else [])
    assert turns == 9 and reads == ["cpu", "tolist"]


def test_debug_names_the_first_layer() -> None:
    with (
        debug(),
        pytest.raises(
            NotFinite,
            match=r"^net.body.1 \(Linear\) is the first layer that gives NaN or infinite numbers, in float16. float16 "
            r"holds numbers up to 65504. Load the model in another dtype, with dtype= of sf.load.",
        ) as error,
    ):
        loop(Net(300.0))(x=ONE, items=[1, 2, 3])
    assert error.value.__notes__ == ["  in 'turns.scale' (Scale)", "  in turn 2 of 3 of 'turns'"]


def test_debug_tells_broken_weights_from_broken_inputs() -> None:
    graph = Graph(use=UseNet())
    with debug(), pytest.raises(NotFinite, match=r"^net.body.1 .* in float16. Its weight has them too: the file is"):
        graph.bind(net=Net(float("nan")))(x=ONE)
    with debug(), pytest.raises(NotFinite, match=r"^net.body.0 .* in float16. Its input has them too: arithmetic"):
        graph.bind(net=Net())(x=ONE * float("inf"))
    with debug(), pytest.raises(NotFinite, match=r"^net.body.1 .* in float32. Its input and its weights are finite."):
        graph.bind(net=Net(3e38, torch.float32))(x=ONE * 100)


def test_debug_finds_arithmetic_of_a_block() -> None:
    class Log(Block):
        def __call__(self, x: Float[Tensor, "batch n"]) -> Numbers:
            return Numbers(x.log())

    with debug(), pytest.raises(NotFinite, match=r"^Log: output 'x' has NaN or infinite numbers. All layers"):
        Graph(log=Log())(x=-ONE)


def test_debug_leaves_no_hooks() -> None:
    from torch.nn.modules import module

    before = len(module._global_forward_hooks), len(module._global_forward_pre_hooks)
    with debug():
        loop(Net(1.0))(x=ONE, items=[1])
        with pytest.raises(NotFinite):
            loop(Net(float("nan")))(x=ONE, items=[1])
    assert (len(module._global_forward_hooks), len(module._global_forward_pre_hooks)) == before


# ---------------------------------------------------------------------------------------------------- global generators
GENERATORS: dict[str, Callable[[], Any]] = {
    "torch's global generator": lambda: torch.randn(1),
    "numpy's global generator": lambda: np.random.rand(),
    "Python's random module": random.random,
}


@pytest.mark.parametrize("name", GENERATORS)
def test_debug_notices_draws_from_a_global_generator(name: str) -> None:
    class AddGrain(Block):
        def __call__(self, x: Float[Tensor, "batch n"]) -> Numbers:
            GENERATORS[name]()
            return Numbers(x)

    graph = Graph(grain=AddGrain())
    graph(x=ONE)
    text = (
        f"^AddGrain draws from {name}, itself or in a function that it calls, so seed= does not decide its numbers. "
        r"Take an input `random: Random`, write `noise, random = random.draw\(rows, shape\)`, and return `random` as "
        "an output."
    )
    with debug(), pytest.raises(BrokenBlock, match=text):
        graph(x=ONE)


def test_debug_lets_generators_of_its_own_draw() -> None:
    class AddNoise(Block):
        def __call__(self, x: Float[Tensor, "batch n"]) -> Numbers:
            return Numbers(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))

    with debug():
        Graph(noise=AddNoise())(x=ONE)
