"""Graph files: what is written, what comes back, and what is refused."""

import enum
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfumato.components.manager import default_manager
from sfumato.components.models import AutoencoderTiny
from sfumato.components.schedulers import EulerDiscreteScheduler
from sfumato.components.spec import ComponentSpec
from sfumato.graph import Block, Graph, GraphFileError, Loop, Switch, component, knob, named
from sfumato.graph.files import schema, to_json
from sfumato.graph.files.reading import from_json
from sfumato.graph.files.text import pretty
from sfumato.registry import models


class X(NamedTuple):
    x: int


class XY(NamedTuple):
    x: int
    y: int


class Add(Block, name="files.Add"):
    n: int = 1

    def __call__(self, x: int) -> X:
        return X(x + self.n)


class AddItem(Block, name="files.AddItem"):
    scale: float = knob(2.0)

    def __call__(self, x: int, item: int) -> X:
        return X(x + item)


class Both(Block, name="files.Both"):
    def __call__(self, x: int, y: int = 3) -> XY:
        return XY(x, y)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Window:
    start: float = 0.0
    stop: float = 1.0
    tags: tuple[str, ...] = ()


class Much(Block, name="files.Much"):
    """Fields of every kind that a file holds."""

    text: str = "a"
    number: int | float | None = None
    pair: tuple[int, str] = (1, "b")
    many: tuple[tuple[float, ...], ...] = ()
    mode: Literal["fast", "good"] = "good"
    colour: Colour = Colour.RED
    window: Window | None = None
    table: Mapping[str, tuple[int, ...]] | None = None
    names: frozenset[str] = frozenset()
    place: Path | None = None
    inner: Block | None = None
    anything: Any = None

    def __call__(self, x: int) -> X:
        return X(x)


class NeedsSize(Block, name="files.NeedsSize"):
    size: int

    def __call__(self, x: int) -> X:
        return X(x)


class Function(Block, name="files.Function"):
    call: Callable[[int], int] | None = None

    def __call__(self, x: int) -> X:
        return X(x)


class Net:
    """A model as far as files care."""

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight

    def state_dict(self) -> dict[str, int]:
        return {"weight": self.weight}

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"weight": self.weight}))


models.add("FilesTestNet", Net)


class UseNet(Block, name="files.UseNet"):
    net: Net = component()

    def __call__(self, x: int) -> X:
        return X(x)


class UseAutoencoder(Block, name="files.UseAutoencoder"):
    vae: AutoencoderTiny = component()

    def __call__(self, x: int) -> X:
        return X(x)


class UseScheduler(Block, name="files.UseScheduler"):
    scheduler: EulerDiscreteScheduler = component()

    def __call__(self, x: int) -> X:
        return X(x)


def loop(**nodes: Block) -> Loop:
    return Loop(over="items", each="item", carry=("x",), body=Graph(nodes or {"add": AddItem()}))


def back(graph: Graph, folder: Path) -> Graph:
    """The graph after it was saved and loaded, having seen that the same bytes are written again."""
    graph.save(folder)
    first = (folder / "graph.json").read_bytes()
    loaded = Graph.load(folder)
    loaded.save(folder)
    assert (folder / "graph.json").read_bytes() == first
    return loaded


# ------------------------------------------------------------------------------------------------ what comes back
def test_a_graph_comes_back_equal(tmp_path: Path) -> None:
    graph = Graph(first=Add(n=3), second=Both(), outputs=("y", "x"), slots={"adder": ["first"]})
    loaded = back(graph, tmp_path)
    assert loaded == graph
    assert loaded(x=1)["x"] == 4
    assert list(loaded.outputs) == list(graph.outputs) and loaded.slots == graph.slots


def test_loops_switches_renamings_and_inner_graphs_come_back(tmp_path: Path) -> None:
    inner = Graph(a=Add(n=1), b=loop(add=AddItem(), again=named(Add(), x="x")))
    switch = Switch(on="which", cases={"one": Graph(a=Add()), "two": inner}, default=Graph(a=Add(n=9)))
    graph = Graph(start=named(Add(), x="z"), pick=switch, around=inner, twice=loop(inner=loop(), last=AddItem()))
    assert back(graph, tmp_path) == graph


def test_pinned_edges_come_back_pinned(tmp_path: Path) -> None:
    graph = Graph(a=Add(n=1), b=Add(n=2), c=Both()).wire("c.x", "a.x").wire("c.y", "inputs.height")
    loaded = back(graph, tmp_path)
    assert loaded == graph and [str(e) for e in loaded.pinned] == [str(e) for e in graph.pinned]


def test_a_node_that_an_edit_left_dormant_comes_back(tmp_path: Path) -> None:
    graph = Graph(a=Add(n=1), b=Add(n=2), c=Both())
    dormant = graph.replace("b", named(Add(), x="w"))
    assert [p.code for p in dormant.check()] == ["unread"] or dormant.check() == []
    assert back(dormant, tmp_path) == dormant


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
def test_every_kind_of_config_comes_back_as_it_was(block: Much, tmp_path: Path) -> None:
    assert back(Graph(much=block), tmp_path) == Graph(much=block)


def test_nan_comes_back_as_nan(tmp_path: Path) -> None:
    loaded = back(Graph(much=Much(number=math.nan)), tmp_path)["much"]
    assert isinstance(loaded, Much) and isinstance(loaded.number, float) and math.isnan(loaded.number)


def test_a_number_without_a_point_is_a_float_where_the_field_says_so() -> None:
    data = to_json(Graph(add=AddItem()))
    data["graph"]["nodes"][0]["config"]["scale"] = 3
    block = from_json(data)["add"]
    assert isinstance(block, AddItem) and type(block.scale) is float


def test_a_field_that_the_file_does_not_know_yet_takes_its_default() -> None:
    data = to_json(Graph(add=Add()))
    data["graph"]["nodes"][0]["config"] = {}
    assert from_json(data) == Graph(add=Add())


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
    loaded = from_json(json.loads(text))
    assert loaded == graph
    assert pretty(to_json(loaded)) == text


# ------------------------------------------------------------------------------------------------ components
def test_what_is_bound_by_spec_comes_back_as_the_same_handle(tmp_path: Path) -> None:
    spec = ComponentSpec(type_hint=("diffusers", "FilesTestNet"), pretrained_model_name_or_path="some/repo")
    graph = Graph(a=UseNet()).bind(net=default_manager().handle(spec))
    loaded = back(graph, tmp_path)
    assert loaded == graph and not graph.diff(loaded)


def test_a_scheduler_is_saved_inline(tmp_path: Path) -> None:
    graph = Graph(a=UseScheduler()).bind(scheduler=EulerDiscreteScheduler(use_karras_sigmas=True))
    loaded = back(graph, tmp_path)
    assert loaded == graph and loaded.bindings["scheduler"].use_karras_sigmas
    entry = json.loads((tmp_path / "graph.json").read_text())["graph"]["components"]["scheduler"]
    assert entry["type_hint"] == ["diffusers", "EulerDiscreteScheduler"] and entry.keys() == {"type_hint", "config"}


def test_a_model_held_as_an_object_is_written_beside_and_found_after_a_move(tmp_path: Path) -> None:
    def tiny() -> AutoencoderTiny:
        sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        return AutoencoderTiny(**sizes, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1)).half()

    one, two = tiny(), tiny()
    graph = Graph(a=UseAutoencoder(), inner=Graph(b=UseAutoencoder()).bind(vae=two)).bind(vae=one)
    back(graph, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    loaded = Graph.load(tmp_path / "there")
    inner = loaded["inner"]
    assert isinstance(inner, Graph)
    for handle, model in ((loaded.bindings["vae"], one), (inner.bindings["vae"], two)):
        again = handle.load()
        assert again.dtype == torch.float16
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_component_that_a_block_holds_itself_is_not_lost(tmp_path: Path) -> None:
    loaded = back(Graph(a=UseScheduler(scheduler=EulerDiscreteScheduler())), tmp_path)
    block = loaded["a"]
    assert isinstance(block, UseScheduler) and block.scheduler == EulerDiscreteScheduler()


def test_a_model_that_two_graphs_share_is_written_once(tmp_path: Path) -> None:
    net = Net(3)
    Graph(a=UseNet(), inner=Graph(b=UseNet()).bind(net=net)).bind(net=net).save(tmp_path)
    assert [p.name for p in tmp_path.rglob("config.json")] == ["config.json"]


def test_a_binding_that_no_block_needs_any_more_is_kept(tmp_path: Path) -> None:
    graph = Graph(a=Add(), b=UseScheduler()).bind(scheduler=EulerDiscreteScheduler()).remove("b")
    assert back(graph, tmp_path) == graph


def test_an_object_that_no_file_can_name_is_refused(tmp_path: Path) -> None:
    class Odd(Net): ...

    with pytest.raises(GraphFileError, match=r"graph\.components\.net  is a Odd .* no class that a file can name"):
        Graph(a=UseNet()).bind(net=Odd()).save(tmp_path)
    assert not (tmp_path / "graph.json").exists()


def test_models_need_a_folder() -> None:
    with pytest.raises(GraphFileError, match="Give a folder to write them to"):
        to_json(Graph(a=UseNet()).bind(net=Net()))


# ------------------------------------------------------------------------------------------------ writing
def test_all_config_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    wrong = Much(number=True)  # the field says int | float, and True is neither
    graph = Graph(a=Function(call=abs), b=Much(anything=[1, 2]), c=Much(anything={1: 2}), d=wrong)
    with pytest.raises(GraphFileError) as error:
        graph.save(tmp_path)
    text = str(error.value)
    assert "4 problems" in text and "takes int | float | None, but true came" in text
    assert "graph.nodes.a.config.call      holds a builtin_function_or_method, which a file cannot hold" in text
    assert "would come back from a file as (1, 2). Type the field more narrowly." in text
    assert "keys in a file are text" in text


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    Graph(a=Add()).save(tmp_path)
    before = (tmp_path / "graph.json").read_bytes()
    with pytest.raises(GraphFileError):
        Graph(a=Function(call=abs)).save(tmp_path)
    assert (tmp_path / "graph.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph", "graph.json"]  # "graph" has the code of Add


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(GraphFileError, match="is a file, and a folder was wanted"):
        Graph(a=Add()).save(tmp_path / "graph.json")


# ------------------------------------------------------------------------------------------------ what is refused
SMALL = Graph(a=Add(), b=loop(), outputs=("x",))


def refused(change: Callable[[dict[str, Any]], object], graph: Graph = SMALL) -> str:
    data: dict[str, Any] = json.loads(json.dumps(to_json(graph)))
    change(data)
    with pytest.raises(GraphFileError) as error:
        from_json(data, where="graph.json")
    return str(error.value)


def nodes(data: dict[str, Any]) -> Any:
    return data["graph"]["nodes"]


def test_a_newer_format_is_refused_with_who_wrote_it() -> None:
    text = refused(lambda d: d.update(format=7, sfumato="3.1"))
    assert text == (
        "graph.json: has the format 7, written by sfumato 3.1. This version reads format 1: update it "
        "(pip install -U sfumato)."
    )


@pytest.mark.parametrize("content", ["[]", "3", '{"a": 1}', '{"graph": {}}'])
def test_what_is_no_graph_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(GraphFileError, match="is no graph file"):
        Graph.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON at line 1, column 2"),
        ('{"format": 1, "format": 1}', "has the key 'format' twice"),
        ('{"format": NaN}', "bare NaN, which is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ("\ud800", None),
    ],
)
def test_bad_json_is_refused_with_its_place(content: str, told: str | None, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(GraphFileError, match=told or "no text file"):
        Graph.load(tmp_path)


def test_a_file_nested_too_deep_is_refused() -> None:
    data = to_json(Graph(a=Add()))
    node: dict[str, Any] = {"block": "files.Add", "config": {}}
    for _ in range(400):
        node = {"block": "Named", "names": {"x": "x"}, "of": node}
    nodes(data)[0] = {"name": "a", **node}
    with pytest.raises(GraphFileError, match=r"nested too deep|recursion"):
        from_json(data)


def test_a_missing_file_is_told_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(GraphFileError, match=r"This is a checkpoint: sf\.load.*The folder has: model_index\.json"):
        Graph.load(tmp_path)


def test_an_unknown_block_is_told_with_the_nearest_names() -> None:
    text = refused(lambda d: nodes(d)[0].update(block="files.Ad"))
    assert "graph.nodes.a.block  no block is called 'files.Ad'. Did you mean 'files.Add'" in text
    assert "Import the module that defines it, or install its package (perhaps 'files')" in text


def test_a_block_name_never_leads_to_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil.Block", "os.system", "..evil.Block", "text.clip.os", "graph.graph.Graph"):
        assert "no block is called" in refused(lambda d, name=name: nodes(d)[0].update(block=name))


def test_unknown_missing_and_unfit_config_is_told_at_once() -> None:
    def change(data: dict[str, Any]) -> None:
        nodes(data)[0]["config"] = {"m": 1}
        nodes(data)[1]["body"]["nodes"][0]["config"]["scale"] = "two"
        nodes(data)[2]["config"] = {}

    text = refused(change, Graph(a=Add(), b=loop(), c=NeedsSize(size=3), outputs=("x",)))
    assert "3 problems" in text
    assert "graph.nodes.a.config.m                     Add has no such field. There are: n." in text
    assert 'graph.nodes.b.body.nodes.add.config.scale  takes float, but "two" came.' in text
    assert "graph.nodes.c.config.size                  is missing, and NeedsSize has no default for it." in text


def test_a_node_named_twice_is_refused() -> None:
    assert "graph.nodes.a  is the name of 2 nodes" in refused(lambda d: nodes(d)[1].update(name="a"))


def test_a_reserved_node_name_is_refused() -> None:
    assert "graph.nodes.inputs  is a reserved word" in refused(lambda d: nodes(d)[0].update(name="inputs"))


def test_all_faults_of_form_are_told_at_once() -> None:
    def change(data: dict[str, Any]) -> None:
        del data["graph"]["outputs"]
        nodes(data)[1]["body"]["edges"][0]["how"] = "guessed"
        nodes(data)[1]["crry"] = 3

    text = refused(change)
    assert "graph.outputs                    is missing." in text
    assert "graph.nodes.b.body.edges[0].how  input should be 'ruled' or 'pinned', but 'guessed' came." in text
    assert "graph.nodes.b.crry               is no key of this form" in text


def edge(data: dict[str, Any], i: int = 1) -> Any:
    return data["graph"]["edges"][i]


def test_a_ruled_edge_that_the_rule_does_not_give_is_refused() -> None:
    chain = Graph(a=Add(), b=Add(), c=Both())
    text = refused(lambda d: edge(d, 2).update({"from": "a.x"}), chain)
    assert text == (
        "graph.json: graph.edges[2]  is marked ruled, but the wiring rule gives c.x b.x, not a.x. "
        'Write "how": "pinned" to keep it so, or correct "from".'
    )
    data = to_json(chain)
    edge(data, 2).update({"from": "a.x", "how": "pinned"})
    assert from_json(data) == chain.wire("c.x", "a.x")


def test_edges_to_nowhere_are_told_with_the_nearest_names() -> None:
    def change(data: dict[str, Any]) -> None:
        edge(data, 0)["to"] = "aa.x"
        edge(data, 1)["from"] = "inputs2.itms"
        nodes(data)[1]["body"]["edges"][0]["to"] = "add.y"

    text = refused(change)
    assert "graph.nodes.b.body.edges[0]  \"to\" names add.y, but add takes no 'y'. There are: x, item, scale." in text


def test_an_edge_that_is_missing_or_doubled_is_refused() -> None:
    assert "no edge leads to b.items" in refused(lambda d: d["graph"]["edges"].pop(1))
    assert "is a second edge into a.x" in refused(lambda d: d["graph"]["edges"].append(edge(d, 0)))


def test_a_graph_that_cannot_be_wired_is_refused_at_its_place() -> None:
    text = refused(lambda d: d["graph"].update(outputs=["zz"]))
    assert "graph.zz  is declared as an output, but no node gives it" in text
    assert "graph.nodes.b.carry" in refused(lambda d: nodes(d)[1].update(carry=["x", "y"]))


def test_a_component_of_an_unknown_library_is_not_looked_up() -> None:
    graph = Graph(a=UseNet()).bind(net=default_manager().handle(ComponentSpec(type_hint=("diffusers", "FilesTestNet"))))
    text = refused(lambda d: d["graph"]["components"]["net"].update(type_hint=["os", "system"]), graph)
    assert "names the library 'os'" in text
    text = refused(lambda d: d["graph"].update(components={"nett": d["graph"]["components"]["net"]}), graph)
    assert "graph.components.nett  no block of this graph needs such a component. Did you mean 'net'?" in text


def test_a_port_renamed_that_is_not_there_is_refused() -> None:
    graph = Graph(a=named(Add(), x="z"))
    assert "files.Add has no port 'q' to rename" in refused(lambda d: nodes(d)[0].update(names={"q": "z"}), graph)


# ------------------------------------------------------------------------------------------------ the schema
def test_the_committed_schema_is_the_one_that_files_are_checked_against() -> None:
    committed = Path(__file__).parents[2] / "docs" / "graph.schema.json"
    assert json.loads(committed.read_text()) == schema(), "Write it anew from sfumato.graph.files.schema()."


def test_a_shipped_pipeline_survives_its_file(tmp_path: Path) -> None:
    import sfumato as sf

    pipe = sf.load("emoji")
    loaded = back(pipe, tmp_path)
    assert loaded == pipe
    assert "sfumato:presets/embedded/emoji" in (tmp_path / "graph.json").read_text()
    assert loaded.slots == pipe.slots and loaded.preset == pipe.preset
