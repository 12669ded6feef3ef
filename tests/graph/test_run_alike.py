"""Random programs and loops: what a graph computes is what a plain interpreter computes."""

from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.graph import Block, Graph, Loop, WireError, named
from sfumato.graph.edits import edited
from sfumato.graph.rewrites import pruned


class Arith(NamedTuple):
    a: int
    b: int


VARS = ["v0", "v1", "v2", "v3"]


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[int, str, str, str, str]]:
    lines = st.tuples(
        st.integers(0, 5), st.sampled_from(VARS), st.sampled_from(VARS), st.sampled_from(VARS), st.sampled_from(VARS)
    )
    return draw(st.lists(lines.filter(lambda t: t[1] != t[2] and t[3] != t[4]), min_size=1, max_size=7))


def interpret(program: list[tuple[int, str, str, str, str]], given: dict[str, int]) -> dict[str, int]:
    env = dict(given)
    for k, p, q, a, b in program:
        left, right = env[p], env[q]
        env[a], env[b] = (left * 3 + right + k) % 101, (left - right * k) % 97
    return env


class Line(Block):
    """One line of a program: reads and writes by the names it is given."""

    k: int

    def __call__(self, p: int, q: int) -> Arith:
        return Arith((p * 3 + q + self.k) % 101, (p - q * self.k) % 97)


def line(k: int, p: str, q: str, a: str, b: str) -> Block:
    """`named` renames an input and an output of one name together, so writes go by names of their own."""
    return named(Line(k=k), p=p, q=q, a=a, b=b)


@given(programs(), st.lists(st.integers(0, 50), min_size=4, max_size=4), st.sets(st.sampled_from(VARS), min_size=1))
def test_a_program_runs_alike_in_a_graph_and_in_an_interpreter(
    program: list[tuple[int, str, str, str, str]], start: list[int], wanted: set[str]
) -> None:
    given_values = dict(zip(VARS, start, strict=True))
    nodes = {f"n{i}": line(*row) for i, row in enumerate(program)}
    graph = Graph()
    graph = edited(graph, nodes=nodes)  # no node counts as touched: a program may compute what it never reads
    want = interpret(program, given_values)
    out = sorted(wanted & set(graph.outputs))
    if not out:
        return
    asked = edited(graph, declared=tuple(out))
    given_here = {n: v for n, v in given_values.items() if n in prepared_inputs(asked)}
    assert dict(asked(**given_here)) == {n: want[n] for n in out}
    small = graph.only(*out)
    assert dict(small(**given_here)) == {n: want[n] for n in out}
    for e in small.edges:  # pinning what the rule chose changes nothing
        small = small.wire(e.target, e.source)
    assert dict(small(**given_here)) == {n: want[n] for n in out}


def prepared_inputs(graph: Graph) -> set[str]:
    return set(pruned(graph).inputs)


@settings(max_examples=60)
@given(programs(), st.lists(st.integers(0, 50), min_size=4, max_size=4), st.integers(0, 4))
def test_a_loop_runs_alike_in_a_graph_and_in_an_interpreter(
    program: list[tuple[int, str, str, str, str]], start: list[int], turns: int
) -> None:
    body = edited(Graph(), nodes={"tick": Tick(), **{f"n{i}": line(*row) for i, row in enumerate(program)}})
    carry = tuple(n for n in VARS if n in body.outputs and n in body.inputs)
    env = dict(zip(VARS, start, strict=True))
    if not carry:
        return
    try:
        graph = Graph(loop=Loop(over="items", each="item", carry=(*carry, "clock"), body=body))
    except WireError:
        return  # a line whose result nobody reads
    given_values = {n: env[n] for n in VARS if n in graph.inputs}
    out = graph(items=list(range(turns)), clock=0, **given_values)
    for _ in range(turns):
        after = interpret(program, env)
        env = {**env, **{n: after[n] for n in carry}}
    assert {n: out[n] for n in carry} == {n: env[n] for n in carry} and out.clock == sum(range(turns))


class Clock(NamedTuple):
    clock: int


class Tick(Block):
    def __call__(self, item: int, clock: int) -> Clock:
        return Clock(clock + item)
