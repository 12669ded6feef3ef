"""Graph files that are refused: the error text, and the place that it names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.components.manager import default_manager
from sfumato.components.spec import ComponentSpec
from sfumato.graph import Graph, GraphFileError, named
from sfumato.graph.files import to_json
from sfumato.graph.files.reading import from_json

from .saved import Add, Both, NeedsSize, UseNet, loop

SMALL = Graph(a=Add(), b=loop(), outputs=("x",))


def refused(change: Callable[[dict[str, Any]], object], graph: Graph = SMALL) -> str:
    data: dict[str, Any] = json.loads(json.dumps(to_json(graph)))
    change(data)
    with pytest.raises(GraphFileError) as error:
        from_json(Graph, data, where="graph.json")
    return str(error.value)


def nodes(data: dict[str, Any]) -> Any:
    return data["graph"]["nodes"]


def test_a_newer_format_is_refused_with_the_version_that_wrote_it() -> None:
    text = refused(lambda d: d.update(format=7, sfumato="3.1"))
    assert text == (
        "graph.json: is of format 7, written by sfumato 3.1, and this version reads format 2. "
        "Update sfumato: pip install -U sfumato."
    )


def test_an_older_format_is_refused_with_what_to_do() -> None:
    assert refused(lambda d: d.update(format=1, sfumato="0.1.0")) == (
        "graph.json: is of format 1, written by sfumato 0.1.0, and this version reads format 2. The names of blocks "
        "have changed since. Make the graph again and save it: graph.save(folder)."
    )


@pytest.mark.parametrize("content", ["[]", "3", '{"a": 1}', '{"graph": {}}'])
def test_json_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(GraphFileError, match="is no graph file"):
        Graph.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", r"is not JSON at line 1, column 2: .*\. Correct that place, or fetch the file again\."),
        ('{"format": 1, "format": 1}', "has the key 'format' twice"),
        ('{"format": NaN}', "has NaN, which is not JSON"),
        ("[" * 100_000, "nested more than 128 levels deep"),
        ("\ud800", None),
    ],
)
def test_bad_json_is_refused_with_its_place(content: str, text: str | None, tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(GraphFileError, match=text or "is not a text file"):
        Graph.load(tmp_path)


def test_a_file_nested_too_deep_is_refused() -> None:
    data = to_json(Graph(a=Add()))
    node: dict[str, Any] = {"block": "files.Add", "config": {}}
    for _ in range(400):
        node = {"block": "Named", "names": {"x": "x"}, "of": node}
    nodes(data)[0] = {"name": "a", **node}
    with pytest.raises(GraphFileError, match=r"nested too deep|recursion"):
        from_json(Graph, data)


def test_a_missing_file_is_reported_with_the_content_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(
        GraphFileError, match=r"The folder is a checkpoint. Write sf\.load.*The folder has: model_index\.json"
    ):
        Graph.load(tmp_path)


def test_an_unknown_block_is_reported_with_similar_names() -> None:
    text = refused(lambda d: nodes(d)[0].update(block="files.Ad"))
    assert "graph.nodes.a.block  no block is called 'files.Ad'. Did you mean 'files.Add'" in text
    assert "Import the module that defines it, or install its package (perhaps 'files')" in text


def test_a_block_name_never_leads_to_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("evil.Block", "os.system", "..evil.Block", "text.sd.os", "graph.graph.Graph"):
        assert "no block is called" in refused(lambda d, name=name: nodes(d)[0].update(block=name))


def test_unknown_missing_and_wrong_config_is_reported_at_once() -> None:
    def change(data: dict[str, Any]) -> None:
        nodes(data)[0]["config"] = {"m": 1}
        nodes(data)[1]["graphs"]["body"]["nodes"][0]["config"]["scale"] = "two"
        nodes(data)[2]["config"] = {}

    text = refused(change, Graph(a=Add(), b=loop(), c=NeedsSize(size=3), outputs=("x",)))
    assert "3 problems" in text
    assert "graph.nodes.a.config.m                            Add has no such field. There are: n." in text
    assert 'graph.nodes.b.graphs.body.nodes.add.config.scale  takes float, got "two".' in text
    assert "graph.nodes.c.config.size                         is missing, and NeedsSize has no default for it." in text


def test_a_node_named_twice_is_refused() -> None:
    assert "graph.nodes.a  is the name of 2 nodes" in refused(lambda d: nodes(d)[1].update(name="a"))


def test_a_reserved_node_name_is_refused() -> None:
    assert "graph.nodes.inputs  is a reserved word" in refused(lambda d: nodes(d)[0].update(name="inputs"))


def test_all_problems_of_form_are_reported_at_once() -> None:
    def change(data: dict[str, Any]) -> None:
        del data["graph"]["outputs"]
        nodes(data)[1]["graphs"]["body"]["edges"][0]["how"] = "guessed"
        nodes(data)[1]["crry"] = 3

    text = refused(change)
    assert "graph.outputs                           is missing." in text
    assert "graph.nodes.b.graphs.body.edges[0].how  input should be 'ruled' or 'pinned', got 'guessed'." in text
    assert "graph.nodes.b.crry                      is no known key. Check the spelling." in text


def edge(data: dict[str, Any], i: int = 1) -> Any:
    return data["graph"]["edges"][i]


def test_a_ruled_edge_that_differs_from_the_rule_is_refused() -> None:
    chain = Graph(a=Add(), b=Add(), c=Both())
    text = refused(lambda d: edge(d, 2).update({"from": "a.x"}), chain)
    assert text == (
        "graph.json: graph.edges[2]  is marked ruled, but the wiring rule joins c.x to b.x, not to a.x. "
        'Write "how": "pinned" to keep this edge, or correct "from".'
    )
    data = to_json(chain)
    edge(data, 2).update({"from": "a.x", "how": "pinned"})
    assert from_json(Graph, data) == chain.wire("c.x", "a.x")


def test_edges_to_unknown_ports_are_reported_with_similar_names() -> None:
    def change(data: dict[str, Any]) -> None:
        edge(data, 0)["to"] = "aa.x"
        edge(data, 1)["from"] = "inputs2.itms"
        nodes(data)[1]["graphs"]["body"]["edges"][0]["to"] = "add.y"

    text = refused(change)
    assert (
        "graph.nodes.b.graphs.body.edges[0]  \"to\" names add.y, but add has no input 'y'. There are: x, item, scale."
        in text
    )


def test_an_edge_that_is_missing_or_doubled_is_refused() -> None:
    assert "has no edge to b.items" in refused(lambda d: d["graph"]["edges"].pop(1))
    assert "is a second edge into a.x" in refused(lambda d: d["graph"]["edges"].append(edge(d, 0)))


def test_a_graph_that_cannot_be_wired_is_refused_at_its_place() -> None:
    text = refused(lambda d: d["graph"].update(outputs=["zz"]))
    assert "graph.zz  is declared as an output, but no node gives it" in text
    assert "graph.nodes.b.carry" in refused(lambda d: nodes(d)[1]["config"].update(carry=["x", "y"]))


def test_a_component_of_an_unknown_library_is_not_looked_up() -> None:
    graph = Graph(a=UseNet()).bind(net=default_manager().handle(ComponentSpec(type_hint=("diffusers", "FilesTestNet"))))
    text = refused(lambda d: d["graph"]["components"]["net"].update(type_hint=["os", "system"]), graph)
    assert "names the library 'os'" in text
    text = refused(lambda d: d["graph"].update(components={"nett": d["graph"]["components"]["net"]}), graph)
    assert "graph.components.nett  no block of this graph needs such a component. Did you mean 'net'?" in text


def test_renaming_an_unknown_port_is_refused() -> None:
    graph = Graph(a=named(Add(), x="z"))
    assert "files.Add has no port 'q' to rename" in refused(lambda d: nodes(d)[0].update(names={"q": "z"}), graph)


def test_graphs_where_the_block_has_no_such_field_are_refused() -> None:
    def change(data: dict[str, Any]) -> None:
        graphs = nodes(data)[1]["graphs"]
        graphs["bodies.one"] = graphs["body"]
        nodes(data)[0]["graphs"] = {"body": graphs["body"]}

    text = refused(change)
    assert "graph.nodes.a.graphs             Add holds no graphs. Remove the key." in text
    assert "graph.nodes.b.graphs.bodies.one  Loop has no such field. Did you mean 'body'?" in text
