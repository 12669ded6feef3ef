"""Edits: each gives a new graph, and what was is still there."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sfumato.graph import Block, Edge, Graph, Loop, Switch, WireError, named
from sfumato.graph.wiring import misplaced

from .fakes import Add, AddItem, Boom, Effect, MakeX, MakeY, Say, Sum, Text, Tool, UseTool, XToY, YToZ


def chain() -> Graph:
    return Graph(make=MakeX(), add=Add(), double=XToY())


def looped() -> Graph:
    body = Graph(step=AddItem(), guider=Add())
    return Graph(make=MakeX(), denoise=Loop(over="items", each="item", carry=("x",), body=body), double=XToY())


# ------------------------------------------------------------------------------------------------ wiring
def test_an_input_takes_the_nearest_earlier_output_of_its_name() -> None:
    graph = Graph(one=MakeX(), two=Add(), three=Add(), last=XToY())
    assert [(e.source, e.target) for e in graph.edges] == [
        ("inputs.seed", "one.seed"), ("one.x", "two.x"), ("two.x", "three.x"), ("three.x", "last.x"),
    ]  # fmt: skip


def test_what_no_earlier_block_gives_is_an_input_of_the_graph() -> None:
    graph = Graph(double=XToY(), make=MakeX())
    assert list(graph.inputs) == ["x", "seed"] and list(graph.outputs) == ["y", "x"]


def test_the_type_of_an_input_is_the_narrowest_of_its_readers_in_any_order() -> None:
    class Takes(Block):
        def __call__(self, x: int | str | None) -> Text:
            return Text("")

    for nodes in ({"a": Takes(), "b": XToY()}, {"b": XToY(), "a": Takes()}):
        assert str(Graph(nodes).inputs["x"]) == "int"


def test_unlike_defaults_stay_with_each_reader_until_the_input_is_given() -> None:
    class Seed7(Block):
        def __call__(self, seed: int = 7) -> Text:
            return Text(str(seed))

    graph = Graph(make=MakeX(), text=Seed7())
    assert dict(graph()) == {"x": 3, "text": "7"}
    assert dict(graph(seed=1)) == {"x": 1, "text": "1"}
    assert repr(graph.inputs["seed"].default) == "varies"


def test_a_graph_is_a_block() -> None:
    inner = Graph(add=Add(), double=XToY(), outputs=("y",))
    assert Graph(make=MakeX(), inner=inner, last=YToZ())(seed=1).z == 5


# ------------------------------------------------------------------------------------------------ edits
def test_replace() -> None:
    assert chain().replace("add", Add(n=10))(seed=1).y == 22


@pytest.mark.parametrize(("where", "order"), [({"before": "add"}, 0), ({"after": "add"}, 1), ({}, 2)])
def test_insert(where: dict[str, str], order: int) -> None:
    graph = chain() if where else Graph(make=MakeX(), add=Add())
    names = list(graph.insert("more", Add(n=5), **where).nodes)
    assert names.index("more") == {0: 1, 1: 2, 2: 2}[order]


def test_insert_into_an_empty_graph() -> None:
    assert list(Graph().insert("make", MakeX()).nodes) == ["make"]
    with pytest.raises(WireError, match="no such node"):
        Graph().insert("make", MakeX(), before="other")


def test_remove_gives_readers_the_next_nearest() -> None:
    assert chain().remove("add")(seed=1).y == 2
    assert list(chain().remove("make").inputs) == ["x"]


def test_rename_takes_pins_and_slots_along() -> None:
    graph = Graph(make=MakeX(), add=Add(), double=XToY(), slots={"s": ["make"]}).wire("double.x", "make.x")
    renamed = graph.rename("make", "start")
    assert renamed.slots == {"s": ("start",)} and "start.x" in renamed.explain("double.x")
    assert renamed.rename("start", "make") == graph


def test_nested_rename_takes_slots_along() -> None:
    graph = Graph(denoise=looped()["denoise"], slots={"guider": ["denoise.guider"]})
    assert graph.rename("denoise.guider", "guide").slots == {"guider": ("denoise.guide",)}
    assert graph.rename("denoise", "refine").slots == {"guider": ("refine.guider",)}
    assert graph.remove("denoise").slots == {}


def test_wire_and_back_to_the_rule() -> None:
    graph = chain()
    pinned = graph.wire("double.x", "make.x")
    assert pinned(seed=1).y == 2 and graph(seed=1).y == 4
    assert pinned.wire("double.x", None) == graph and pinned != graph


def test_wire_to_an_input_of_the_graph() -> None:
    graph = chain().wire("double.x", "inputs.other")
    assert list(graph.inputs) == ["seed", "other"] and graph.only("y")(other=4).y == 8


def test_wire_inside_a_loop_with_full_paths() -> None:
    body = Graph(step=AddItem(), guider=Add(), last=Add(n=100))
    graph = Graph(denoise=Loop(over="items", each="item", carry=("x",), body=body))
    pinned = graph.wire("denoise.last.x", "denoise.step.x")
    assert pinned(x=0, items=[1]).x == 101 and graph(x=0, items=[1]).x == 102
    assert pinned == graph.wire("denoise.last.x", "step.x")


def test_an_edit_rules_only_ruled_edges() -> None:
    graph = chain().wire("double.x", "make.x").insert("more", Add(n=50), after="add")
    assert graph(seed=1).y == 2 and not graph.insert("e", Effect(), before="double").diff(graph).moved


@pytest.mark.parametrize(
    "block",
    [
        looped()["denoise"],
        named(looped()["denoise"], x="x"),
        Graph(step=AddItem(), guider=Add()),
        named(named(Graph(step=AddItem(), guider=Add()), item="i"), i="item"),
    ],
    ids=["loop", "named loop", "graph", "named twice"],
)
def test_paths_lead_through_loops_graphs_and_renamings(block: Block) -> None:
    graph = Graph(make=MakeX(), denoise=block)
    assert graph["denoise.guider"] == Add()
    new = graph.replace("denoise.guider", Add(n=5))
    assert new["denoise.guider"] == Add(n=5) and graph["denoise.guider"] == Add()
    assert new.replace("denoise.guider", Add()) == graph
    assert list(new.insert("more", Add(), after="denoise.step").children()) == ["make", "denoise"]


def test_paths_lead_through_cases() -> None:
    switch = Switch(on="mode", cases={"fast": Graph(go=XToY())}, default=Graph(go=XToY(), slow=Effect()))
    graph = Graph(make=MakeX(), pick=switch)
    assert graph.replace("pick.fast.go", Boom())["pick.fast.go"] == Boom()
    assert graph.remove("pick.default.slow")["pick"].children()["default"] == Graph(go=XToY())


def test_an_edit_of_a_body_that_breaks_the_outside_says_where() -> None:
    with pytest.raises(WireError) as caught:
        looped().replace("denoise.step", Add())
    assert caught.value.problems[0].place == "denoise.each"


def test_only_prunes_and_asks_for_less() -> None:
    graph = Graph(use=UseTool(), make=MakeX(), double=named(XToY(), y="z"), slots={"s": ["use"]}).bind(tool=Tool())
    small = graph.only("z")
    assert list(small.nodes) == ["make", "double"] and not small.components and not small.bindings and not small.slots
    assert graph.only("y", "z").only("y") == graph.only("y")


def test_edits_share_what_they_do_not_touch() -> None:
    graph = looped()
    new = graph.replace("double", XToY())
    assert new.nodes["denoise"] is graph.nodes["denoise"]
    deep = graph.replace("denoise.guider", Add(n=4))
    assert deep["denoise.step"] is graph["denoise.step"] and deep.nodes["make"] is graph.nodes["make"]


def test_a_block_that_hides_another_before_anyone_has_read_it_is_refused() -> None:
    with pytest.raises(WireError, match=r"make  no block reads its outputs \(x\). again replaces 'x'"):
        Graph(make=MakeX()).insert("again", MakeX())
    with pytest.raises(WireError, match="no block reads its outputs"):
        Graph(make=MakeX(), double=XToY()).insert("again", MakeX(), before="double")


def test_a_swap_may_leave_another_block_without_a_reader() -> None:
    graph = Graph(make=MakeX(), y=MakeY(), sum=Sum(), outputs=("z",))
    assert graph.replace("sum", named(XToY(), y="z"))(seed=2).z == 4


# ------------------------------------------------------------------------------------------------ laws
BLOCKS = [MakeX(), Add(), Add(n=2), XToY(), YToZ(), Sum(), Say(), MakeY(), Effect()]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    blocks = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6))
    graph = Graph()
    for i, block in enumerate(blocks):
        try:
            graph = graph.insert(f"n{i}", block)
        except WireError:
            continue
    if draw(st.booleans()):
        with suppress(WireError):
            graph = Graph({"nested": graph, **{f"m{i}": b for i, b in enumerate(blocks[:2])}})
    for _ in range(draw(st.integers(0, 2))):
        try:
            e = draw(st.sampled_from(graph.edges))
            graph = graph.wire(e.target, f"{draw(st.sampled_from(list(graph.nodes)))}.{e.output}")
        except (WireError, IndexError):
            continue
    assume(not graph.check())  # a pin may leave a block unread, which touching that block then reports
    return graph


def places(graph: Graph) -> list[str]:
    inner = [f"nested.{n}" for n in graph["nested"].children()] if "nested" in graph.nodes else []
    return [n for n in graph.nodes if n != "nested"] + inner


def state(graph: Graph) -> Any:
    return dict(graph.nodes), graph.edges, dict(graph.slots), dict(graph.bindings), graph.declared


@given(graphs(), st.data())
def test_replace_and_replace_back_is_the_identity(graph: Graph, data: st.DataObject) -> None:
    assume(not misplaced(graph.nodes, graph.edges, graph.declared))  # a pin may leave a node without a reader
    before = state(graph)
    if not (where := places(graph)):
        return
    path = data.draw(st.sampled_from(where))
    old, new = graph[path], data.draw(st.sampled_from(BLOCKS))
    try:
        graph.replace(path, old)
    except WireError:
        return  # a pin left it without a reader, and an edit that touches it says so
    try:
        changed = graph.replace(path, new)
    except WireError:
        pass
    else:
        assert changed.replace(path, old) == graph
        assert (changed == graph) == (old == new)
        assert not changed.replace(path, old).diff(graph)
    assert state(graph) == before


@given(graphs(), st.data())
def test_insert_and_remove_is_the_identity(graph: Graph, data: st.DataObject) -> None:
    if not (where := places(graph)):
        return
    block = data.draw(st.sampled_from(BLOCKS))
    side = data.draw(st.sampled_from(["before", "after"]))
    path = data.draw(st.sampled_from(where))
    try:
        changed = graph.insert("fresh", block, **{side: path})
        back = changed.remove(f"{path.rpartition('.')[0]}.fresh".lstrip("."))
    except WireError:
        return
    assert back == graph


@given(graphs(), st.data())
def test_rename_and_back_is_the_identity(graph: Graph, data: st.DataObject) -> None:
    if not (where := places(graph)):
        return
    path = data.draw(st.sampled_from(where))
    head, _, name = path.rpartition(".")
    changed = graph.rename(path, "fresh")
    assert changed.rename(f"{head}.fresh".lstrip("."), name) == graph


@given(graphs())
def test_a_graph_made_anew_of_its_nodes_and_pins_is_equal(graph: Graph) -> None:
    again = Graph(graph.nodes)
    for e in graph.pinned:
        again = again.wire(e.target, e.source)
    assert again == graph and hash(again) == hash(graph)


# ------------------------------------------------------------------------------------------------ looking
def test_diff_names_what_changed() -> None:
    old = chain()
    new = old.replace("add", Add(n=3)).insert("more", Add(), after="add").rename("make", "start")
    diff = old.diff(new)
    assert diff.added == ("start", "more") and diff.removed == ("make",) and diff.changed == ("add",)
    assert set(diff.moved) == {("add.x", "make.x", "start.x"), ("double.x", "add.x", "more.x")}
    assert not old.diff(old) and str(old.diff(old)) == "no difference"


def test_explain() -> None:
    graph = looped()
    assert graph.explain("double.x").splitlines() == ["double.x  int", "  <- denoise.x  (by the wiring rule)"]
    assert graph.explain("denoise.step.item").splitlines()[1:] == [
        "  <- each item of denoise.items", "  <- the call: items=…",
    ]  # fmt: skip
    assert graph.explain("denoise.step.x").splitlines()[1:] == [
        "  <- denoise.guider.x of the turn before, carried; at first:", "  <- make.x  (by the wiring rule)",
    ]  # fmt: skip
    assert "given by make; read by denoise.x" in graph.explain("make.x")
    assert graph.explain("seed").endswith("the call: seed=3")
    with pytest.raises(WireError, match=r"double has no port 'w'. It takes x and gives y"):
        graph.explain("double.w")


def test_explain_follows_switches_and_renamings() -> None:
    graph = Graph(
        make=named(MakeX(), x="start"), pick=named(Switch(on="mode", cases={"a": Graph(go=XToY())}), x="start")
    )
    assert graph.explain("pick.a.go.x").splitlines()[1:] == ["  <- pick.start", "  <- make.start  (by the wiring rule)"]


def test_digraph_has_every_node_and_edge() -> None:
    graph = looped()
    made = graph.digraph()
    assert set(made) == {"inputs", *graph.nodes} and made.number_of_edges() == len(graph.edges)
    assert all(isinstance(data["edge"], Edge) for _, _, data in made.edges(data=True))


def test_check_tells_everything_at_once() -> None:
    graph = Graph(use=UseTool(), other=named(UseTool(), y="z", tool="second"))
    assert [(p.code, p.place) for p in graph.check()] == [("unbound", "tool"), ("unbound", "second")]
    assert not graph.bind(tool=Tool(), second=Tool()).check()


def test_named_renames_ports_and_components() -> None:
    block = named(UseTool(), x="a", y="b", tool="second")
    s = block.signature
    assert (list(s.inputs), list(s.outputs), list(s.components)) == (["a"], ["b"], ["second"])
    assert Graph(one=block).bind(second=Tool(3))(a=2).b == 6


def test_named_twice_and_swapped() -> None:
    assert named(named(Sum(), x="a"), a="b").signature.inputs.keys() == {"b", "y"}
    assert Graph(sum=named(named(Sum(), x="t", y="x"), t="y"))(x=1, y=2).z == 3
    chained = Graph(sum=named(named(XToY(), x="w"), w="x"))
    assert chained(x=2).y == 4
    assert Graph(one=named(named(XToY(), y="a", x="y"), y="q"))(q=3).a == 6
