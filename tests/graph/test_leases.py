"""A run holds components for as long as a node, or a function that it gave, can use them: not shorter, not longer."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Annotated, Any, NamedTuple

import pytest

import sfumato as sf
from sfumato import Graph, Loop
from sfumato.graph import Lazy
from sfumato.graph.events import BlockFinished, BlockStarted
from sfumato.graph.lender import Waits

Ask = Annotated[Callable[[int], int], sf.Port("ask")]


class Tool:
    """A component that is a number."""

    def __init__(self, value: int) -> None:
        self.value = value


@dataclass(eq=False)
class Lending:
    """Writes down what is lent; `blocked` makes an asker wait as a full memory would."""

    log: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    blocked: bool = False
    asked: Event = field(default_factory=Event)
    _bell: Event = field(default_factory=Event)

    def lease(self, components: Sequence[Any], owner: str, stop: Event | None = None, waits: Waits = None) -> "Lent":
        names = " ".join(sorted(c.name for c in components))
        self.asked.set()
        while self.blocked:
            self._bell.wait(10)
            if stop is not None and stop.is_set():
                raise sf.Cancelled("stopped while waiting")
        self.log.append(f"+{names} for {owner}")
        self.held.append(names)
        return Lent(self, names)

    def wake(self) -> None:
        self._bell.set()


class Lent:
    def __init__(self, lender: Lending, names: str) -> None:
        self.lender, self.names = lender, names

    def release(self) -> None:
        if self.names in self.lender.held:
            self.lender.held.remove(self.names)
            self.lender.log.append(f"-{self.names}")


class Handle(Lazy):
    """What a graph binds: says who lends it."""

    def __init__(self, name: str, value: int, lender: Lending) -> None:
        self.name, self.value, self.lending = name, value, lender
        self.alive: weakref.ref[Tool] | None = None

    @property
    def type(self) -> type[Tool]:
        return Tool

    @property
    def lender(self) -> Lending:
        return self.lending

    def load(self) -> Tool:
        assert any(self.name in names.split() for names in self.lender.held), f"{self.name} loaded without a lease"
        self.lender.log.append(f"load {self.name}")
        made = Tool(self.value)
        self.alive = weakref.ref(made)
        return made


class Made(NamedTuple):
    ask: Ask


class X(NamedTuple):
    x: int


class MakeAsk(sf.Block):
    """Gives a function that uses a component."""

    model: Tool = sf.component()

    def __call__(self) -> Made:
        def ask(x: int) -> int:
            return x + self.model.value

        return Made(ask)


class Wrap(sf.Block):
    """Takes a function and gives one that uses another component too."""

    extra: Tool = sf.component()

    def __call__(self, ask: Ask) -> Made:
        def both(x: int) -> int:
            return ask(x) * self.extra.value

        return Made(both)


class Use(sf.Block):
    def __call__(self, ask: Ask, x: int) -> X:
        return X(ask(x))


class UseItem(sf.Block):
    def __call__(self, ask: Ask, x: int, item: int) -> X:
        return X(ask(x) + item)


class Double(sf.Block):
    tool: Tool = sf.component()

    def __call__(self, x: int) -> X:
        return X(2 * x * self.tool.value)


class DoubleItem(sf.Block):
    tool: Tool = sf.component()

    def __call__(self, x: int, item: int) -> X:
        return X(2 * x * self.tool.value + item)


class Fail(sf.Block):
    def __call__(self, ask: Ask, x: int) -> X:
        raise ValueError("no")


@pytest.fixture
def lending() -> Lending:
    return Lending()


def handles(lending: Lending, **values: int) -> dict[str, Any]:
    return {name: Handle(name, value, lending) for name, value in values.items()}


def test_a_node_holds_what_it_needs_while_it_runs_and_no_longer(lending: Lending) -> None:
    graph = Graph(first=Double(), second=sf.named(Double(), tool="other")).bind(**handles(lending, tool=1, other=2))
    assert graph(x=3).x == 24
    assert lending.log == ["+tool for first", "load tool", "-tool", "+other for second", "load other", "-other"]


def test_a_function_holds_until_its_last_reader_is_done(lending: Lending) -> None:
    graph = Graph(make=MakeAsk(), use=Use(), more=Use(), last=Double(), outputs=("x",))
    graph = graph.bind(**handles(lending, model=10, tool=1))
    assert graph(x=1).x == 42
    assert lending.log == ["+model for make", "load model", "-model", "+tool for last", "load tool", "-tool"]


def test_what_overlaps_is_taken_together_so_that_nobody_holds_and_waits(lending: Lending) -> None:
    graph = Graph(make=MakeAsk(), between=Double(), wrap=Wrap(), use=Use(), outputs=("x",))
    graph = graph.bind(**handles(lending, model=10, tool=1, extra=3))
    assert graph(x=1).x == 36
    assert lending.log[0] == "+extra model tool for make"
    assert lending.log[-1] == "-extra model tool"
    assert sum(line.startswith("+") for line in lending.log) == 1


def loop(*, function: bool) -> Loop:
    body = Graph(make=MakeAsk(), use=UseItem(), then=Double()) if function else Graph(then=DoubleItem())
    return Loop(over="items", each="item", carry=("x",), body=body)


def test_a_loop_whose_function_lives_through_it_is_one_span(lending: Lending) -> None:
    graph = Graph(turns=loop(function=True), after=sf.named(Double(), tool="other"))
    graph = graph.bind(**handles(lending, model=1, tool=1, other=1))
    assert graph(x=0, items=[0, 0, 0]).x == 28
    assert [line for line in lending.log if line[0] in "+-"] == [
        "+model tool for turns",
        "-model tool",
        "+other for after",
        "-other",
    ]


def test_a_loop_without_one_holds_in_each_turn_so_that_large_ones_may_take_turns(lending: Lending) -> None:
    graph = Graph(turns=loop(function=False)).bind(**handles(lending, tool=1))
    assert graph(x=1, items=[0, 0]).x == 4
    assert lending.log == ["+tool for turns.then", "load tool", "-tool"] * 2


def test_a_nested_graph_is_taken_apart_and_only_the_chosen_case_is_held(lending: Lending) -> None:
    other = sf.named(Double(), tool="other")
    switch = sf.Switch(on="size", cases={"small": Graph(a=Double()), "large": Graph(a=other)})
    graph = Graph(inner=Graph(a=Double(), b=other), choose=switch).bind(**handles(lending, tool=1, other=1))
    assert graph(x=1, size="small").x == 8
    assert [line for line in lending.log if line[0] == "+"] == [
        "+tool for inner.a",
        "+other for inner.b",
        "+tool for choose.small.a",
    ]


def test_a_function_from_a_nested_graph_holds_until_it_is_read_outside(lending: Lending) -> None:
    graph = Graph(inner=Graph(make=MakeAsk()), between=Double(), use=Use(), outputs=("x",))
    graph = graph.bind(**handles(lending, model=5, tool=1))
    assert graph(x=1).x == 7
    assert [line for line in lending.log if line[0] in "+-"] == ["+model tool for inner", "-model tool"]


def test_nothing_holds_a_component_after_its_span(lending: Lending) -> None:
    bound = handles(lending, model=1, tool=1)
    graph = Graph(make=MakeAsk(), use=Use(), last=Double(), outputs=("x",)).bind(**bound)
    gc.disable()
    try:
        for event in (run := graph.stream(x=1)):
            if isinstance(event, BlockStarted) and event.path == "last":
                assert bound["model"].alive() is None
        assert run.outputs.x == 4
        assert bound["tool"].alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("end", ["error", "cancel", "close", "forget"])
def test_however_a_run_ends_nothing_stays_held(lending: Lending, end: str) -> None:
    last = Fail() if end == "error" else Use()
    bound = handles(lending, model=1)
    graph = Graph(make=MakeAsk(), use=last, more=Use(), outputs=("x",)).bind(**bound)
    run = graph.stream(x=1)
    for event in run:
        if isinstance(event, BlockFinished) and event.path == "make":
            break
    assert lending.held == ["model"]
    if end == "error":
        with pytest.raises(ValueError, match="no") as kept:
            run.result()
        assert kept.value.__traceback__ is not None  # it keeps the frames alive, and with them the function
    elif end == "cancel":
        run.cancel()
        with pytest.raises(sf.Cancelled):
            run.result()
    elif end == "close":
        run.close()
        assert bound["model"].alive() is None
    else:
        del run
        gc.collect()
    assert lending.held == []


def test_a_closed_run_goes_on_and_takes_again_what_it_needs(lending: Lending) -> None:
    graph = Graph(first=sf.named(Double(), tool="other"), make=MakeAsk(), use=Use(), outputs=("x",))
    graph = graph.bind(**handles(lending, model=1, other=1))
    run = graph.stream(x=1)
    for event in run:
        if isinstance(event, BlockFinished) and event.path == "make":
            break
    run.close()
    assert lending.held == []
    assert run.result().x == 3
    assert [line for line in lending.log if line[0] == "+"] == ["+other for first", *["+model for make"] * 2]
    assert lending.held == []


def test_a_function_that_is_given_out_holds_until_it_is_gone(lending: Lending) -> None:
    graph = Graph(make=MakeAsk()).bind(**handles(lending, model=4))
    out = graph()
    assert lending.held == ["model"]
    ask: Any = out.ask
    del out
    assert ask(1) == 5
    assert lending.held == ["model"]
    del ask
    gc.collect()
    assert lending.held == []


def test_a_run_that_waits_for_memory_can_be_cancelled(lending: Lending) -> None:
    lending.blocked = True
    run = Graph(make=MakeAsk(), use=Use()).bind(**handles(lending, model=1)).stream(x=1)
    raised: list[BaseException] = []

    def work() -> None:
        try:
            run.result()
        except sf.Cancelled as error:
            raised.append(error)

    thread = Thread(target=work)
    thread.start()
    assert lending.asked.wait(10)
    run.cancel()
    thread.join(10)
    assert len(raised) == 1 and not thread.is_alive()
    assert lending.held == []
