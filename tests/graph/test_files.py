"""Graph files: graphs that are saved and loaded, and graphs that cannot be saved."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.components.manager import default_manager
from sfumato.components.models import AutoencoderTiny
from sfumato.components.schedulers import EulerDiscreteScheduler
from sfumato.components.spec import ComponentSpec
from sfumato.graph import Block, Graph, GraphFileError, Switch, named
from sfumato.graph.files import schema, to_json
from sfumato.graph.files.reading import from_json
from sfumato.graph.json_text import pretty

from .saved import Add, AddItem, Both, Colour, Function, Much, Net, UseAutoencoder, UseNet, UseScheduler, Window, loop


def saved_and_loaded(graph: Graph, folder: Path) -> Graph:
    """The graph after saving and loading. Saving it again must write the same bytes."""
    graph.save(folder)
    first = (folder / "graph.json").read_bytes()
    loaded = Graph.load(folder)
    loaded.save(folder)
    assert (folder / "graph.json").read_bytes() == first
    return loaded


# ------------------------------------------------------------------------------------------------ saved and loaded
def test_a_loaded_graph_is_equal(tmp_path: Path) -> None:
    graph = Graph(first=Add(n=3), second=Both(), outputs=("y", "x"), slots={"adder": ["first"]})
    loaded = saved_and_loaded(graph, tmp_path)
    assert loaded == graph
    assert loaded(x=1)["x"] == 4
    assert list(loaded.outputs) == list(graph.outputs) and loaded.slots == graph.slots


def test_loops_switches_renamings_and_inner_graphs_are_loaded_equal(tmp_path: Path) -> None:
    inner = Graph(a=Add(n=1), b=loop(add=AddItem(), again=named(Add(), x="x")))
    switch = Switch(on="which", cases={"one": Graph(a=Add()), "two": inner}, default=Graph(a=Add(n=9)))
    graph = Graph(start=named(Add(), x="z"), pick=switch, around=inner, twice=loop(inner=loop(), last=AddItem()))
    assert saved_and_loaded(graph, tmp_path) == graph


def test_pinned_edges_stay_pinned(tmp_path: Path) -> None:
    graph = Graph(a=Add(n=1), b=Add(n=2), c=Both()).wire("c.x", "a.x").wire("c.y", "inputs.height")
    loaded = saved_and_loaded(graph, tmp_path)
    assert loaded == graph and [str(e) for e in loaded.pinned] == [str(e) for e in graph.pinned]


def test_an_unread_node_is_saved(tmp_path: Path) -> None:
    graph = Graph(a=Add(n=1), b=Add(n=2), c=Both())
    dormant = graph.replace("b", named(Add(), x="w"))
    assert [p.code for p in dormant.check()] == ["unread"] or dormant.check() == []
    assert saved_and_loaded(dormant, tmp_path) == dormant


@pytest.mark.parametrize(
    "block",
    [
        Much(),
        Much(number=1), Much(number=1.0), Much(number=math.inf), Much(number=-math.inf),
        Much(pair=(7, "π")), Much(many=((1.0, 2.5), ())), Much(colour=Colour.BLUE, mode="fast"),
        Much(window=Window(0.25, math.inf, ("a", "b"))), Much(table={"a": (1, 2), "b": ()}),
        Much(names=frozenset({"b", "a"})), Much(place=Path("a/b")),
        Much(inner=Much(inner=Add(n=2))), Much(inner=named(Add(), x="z")), Much(inner=loop()),
        Much(anything=(1, (2.5, None, "x"), {"a": (True,)})),
    ],
)  # fmt: skip
def test_every_kind_of_config_is_loaded_equal(block: Much, tmp_path: Path) -> None:
    assert saved_and_loaded(Graph(much=block), tmp_path) == Graph(much=block)


def test_nan_is_saved(tmp_path: Path) -> None:
    loaded = saved_and_loaded(Graph(much=Much(anything=math.nan)), tmp_path)["much"]
    assert isinstance(loaded, Much) and isinstance(loaded.anything, float) and math.isnan(loaded.anything)


def test_an_integer_is_read_as_a_float_in_a_float_field() -> None:
    data = to_json(Graph(add=AddItem()))
    data["graph"]["nodes"][0]["config"]["scale"] = 3
    block = from_json(Graph, data)["add"]
    assert isinstance(block, AddItem) and type(block.scale) is float


def test_a_field_that_the_file_lacks_gets_its_default() -> None:
    data = to_json(Graph(add=Add()))
    data["graph"]["nodes"][0]["config"] = {}
    assert from_json(Graph, data) == Graph(add=Add())


def renamed(n: int, name: str) -> Block:
    return named(Add(n=n), x=name)


def looped(n: int) -> Block:
    return loop(first=Add(n=n), add=AddItem())


def switched(n: int) -> Block:
    return Switch(on="mode", cases={"a": Graph(a=Add(n=n)), "b": Graph(b=Both())})


def tuples(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3).map(tuple)


numbers = st.none() | st.integers() | st.floats(allow_nan=False)
blocks = st.one_of(
    st.builds(Add, n=st.integers()),
    st.builds(renamed, st.integers(), st.sampled_from(["x", "y", "z"])),
    st.builds(Much, text=st.text(), number=numbers, anything=st.recursive(numbers | st.text(), tuples, max_leaves=6)),
    st.just(Both()),
    st.builds(looped, st.integers()),
    st.builds(switched, st.integers()),
)  # fmt: skip


@given(blocks=st.lists(blocks, min_size=1, max_size=6), pins=st.lists(st.integers(0, 99), max_size=3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_random_graphs_survive_their_json(blocks: list[Block], pins: list[int]) -> None:
    graph = Graph()
    for i, block in enumerate(blocks):
        graph = graph.insert(f"n{i}", named(block, **{o: f"{o}{i}" for o in block.signature.outputs}))
    for pin in pins:
        edges = list(graph.edges)
        edge = edges[pin % len(edges)]
        graph = graph.wire(edge.target, edge.source)
    text = pretty(to_json(graph))
    loaded = from_json(Graph, json.loads(text))
    assert loaded == graph
    assert pretty(to_json(loaded)) == text


# ------------------------------------------------------------------------------------------------ components
def test_a_handle_is_saved_as_its_spec(tmp_path: Path) -> None:
    spec = ComponentSpec(type_hint=("diffusers", "FilesTestNet"), pretrained_model_name_or_path="some/repo")
    graph = Graph(a=UseNet()).bind(net=default_manager().handle(spec))
    loaded = saved_and_loaded(graph, tmp_path)
    assert loaded == graph and not graph.diff(loaded)


def test_a_scheduler_is_saved_inline(tmp_path: Path) -> None:
    graph = Graph(a=UseScheduler()).bind(scheduler=EulerDiscreteScheduler(use_karras_sigmas=True))
    loaded = saved_and_loaded(graph, tmp_path)
    assert loaded == graph and loaded.bindings["scheduler"].use_karras_sigmas
    entry = json.loads((tmp_path / "graph.json").read_text())["graph"]["components"]["scheduler"]
    assert entry["type_hint"] == ["diffusers", "EulerDiscreteScheduler"] and entry.keys() == {"type_hint", "config"}


def test_a_bound_model_is_written_beside_the_file_and_found_after_a_move(tmp_path: Path) -> None:
    def tiny() -> AutoencoderTiny:
        sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        return AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).half()

    one, two = tiny(), tiny()
    graph = Graph(a=UseAutoencoder(), inner=Graph(b=UseAutoencoder()).bind(vae=two)).bind(vae=one)
    saved_and_loaded(graph, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    loaded = Graph.load(tmp_path / "there")
    inner = loaded["inner"]
    assert isinstance(inner, Graph)
    for handle, model in ((loaded.bindings["vae"], one), (inner.bindings["vae"], two)):
        again = handle.load()
        assert again.dtype == torch.float16
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_component_in_a_block_field_is_saved(tmp_path: Path) -> None:
    loaded = saved_and_loaded(Graph(a=UseScheduler(scheduler=EulerDiscreteScheduler())), tmp_path)
    block = loaded["a"]
    assert isinstance(block, UseScheduler) and block.scheduler == EulerDiscreteScheduler()


def test_a_model_that_two_graphs_share_is_written_once(tmp_path: Path) -> None:
    net = Net(3)
    Graph(a=UseNet(), inner=Graph(b=UseNet()).bind(net=net)).bind(net=net).save(tmp_path)
    assert [p.name for p in tmp_path.rglob("config.json")] == ["config.json"]


def test_a_binding_that_no_block_needs_is_saved(tmp_path: Path) -> None:
    graph = Graph(a=Add(), b=UseScheduler()).bind(scheduler=EulerDiscreteScheduler()).remove("b")
    assert saved_and_loaded(graph, tmp_path) == graph


def test_an_object_that_no_file_can_name_is_refused(tmp_path: Path) -> None:
    class Odd(Net): ...

    with pytest.raises(GraphFileError, match=r"graph\.components\.net  is a Odd .* a class that a file cannot name"):
        Graph(a=UseNet()).bind(net=Odd()).save(tmp_path)
    assert not (tmp_path / "graph.json").exists()


def test_models_need_a_folder() -> None:
    with pytest.raises(GraphFileError, match="which need a folder"):
        to_json(Graph(a=UseNet()).bind(net=Net()))


# ------------------------------------------------------------------------------------------------ writing
def test_all_config_that_cannot_be_saved_is_reported_at_once(tmp_path: Path) -> None:
    wrong = Much().filled({"number": True})  # unchecked: the field says int | float, and True is neither
    graph = Graph(a=Function(call=abs), b=Much(anything=[1, 2]), c=Much(anything={1: 2}), d=wrong)
    with pytest.raises(GraphFileError) as error:
        graph.save(tmp_path)
    text = str(error.value)
    assert "4 problems" in text and "takes int | float | None, got true" in text
    assert "graph.nodes.a.config.call      has a builtin_function_or_method, which a file cannot hold" in text
    assert "is [1, 2], but a file would give (1, 2). Give the field a narrower type." in text
    assert "Keys in a file must be text" in text


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    Graph(a=Add()).save(tmp_path)
    before = (tmp_path / "graph.json").read_bytes()
    with pytest.raises(GraphFileError):
        Graph(a=Function(call=abs)).save(tmp_path)
    assert (tmp_path / "graph.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph", "graph.json"]  # "graph" has the code of Add


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="needs a folder, got a file"):
        Graph(a=Add()).save(tmp_path / "graph.json")


# ------------------------------------------------------------------------------------------------ the schema
def test_the_committed_schema_is_the_one_that_files_are_checked_against() -> None:
    committed = Path(__file__).parents[2] / "docs" / "graph.schema.json"
    assert json.loads(committed.read_text()) == schema(), "Write it anew from sfumato.graph.files.schema()."


def test_a_shipped_pipeline_survives_its_file(tmp_path: Path) -> None:
    import sfumato as sf

    pipe = sf.load("emoji")
    loaded = saved_and_loaded(pipe, tmp_path)
    assert loaded == pipe
    assert "sfumato:presets/embedded/emoji" in (tmp_path / "graph.json").read_text()
    assert loaded.slots == pipe.slots and loaded.preset == pipe.preset
