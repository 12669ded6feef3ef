"""Workflows of ComfyUI as one flat list of nodes: all published files, both formats, and pictures that hold one."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

import sfumato as sf
from sfumato.graph import GraphFileError
from sfumato.presets.bridge.comfyui import Workflow, read_workflow
from sfumato.presets.bridge.comfyui.reading import known_of
from sfumato.presets.cli.app import app

from .comfyui_workflows import BLUEPRINTS, TEMPLATES, api, local_templates

PUBLISHED = tuple(
    sorted(p for folder in (TEMPLATES, BLUEPRINTS) for p in folder.glob("*.json")
           if not p.name.startswith("index") and p.name != "fuse_options.json")
)  # fmt: skip


# ------------------------------------------------------------------------------------------------- reading
def test_all_published_workflows_are_read_and_flattened() -> None:
    sizes = [len(read_workflow(path).nodes) for path in PUBLISHED]
    assert len(sizes) == 759
    assert max(sizes) < 200


def test_most_local_image_templates_have_only_nodes_that_are_here_or_of_a_family_that_is_not() -> None:
    names = local_templates()
    whole = 0
    for name in names:
        known = known_of(read_workflow(TEMPLATES / f"{name}.json"))
        assert known.fates.keys() == known.workflow.nodes.keys()
        whole += all(fate != "hole" for fate, _ in known.fates.values())
    assert len(names) == 120
    assert whole >= 99


def test_the_api_format_of_a_flattened_workflow_is_the_same_workflow() -> None:
    for name in local_templates()[:40]:
        workflow = read_workflow(TEMPLATES / f"{name}.json")
        again = read_workflow(json.loads(json.dumps(workflow.to_api())))
        assert [(n.id, n.type, n.inputs) for n in again.nodes.values()] == [
            (n.id, n.type, n.inputs) for n in workflow.nodes.values()
        ]


# ------------------------------------------------------------------------------------------------- the UI format
def ui(nodes: list[dict[str, Any]], links: list[Any], **more: Any) -> dict[str, Any]:
    return {"version": 0.4, "nodes": nodes, "links": links, **more}


def entry(number: int, kind: str, *values: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "type": kind, "mode": 0, "widgets_values": [*values], **more}


def slot(name: str, kind: str, link: int | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, **more}


IMAGE_OUT = [{"name": "IMAGE", "type": "IMAGE", "links": []}]


def test_a_bypassed_node_passes_its_input_and_a_muted_one_takes_its_readers_away() -> None:
    def made(mode: int) -> Workflow:
        load = entry(1, "LoadImage", "a.png", "image", outputs=IMAGE_OUT)
        invert = entry(2, "ImageInvert", inputs=[slot("image", "IMAGE", 1)], outputs=IMAGE_OUT) | {"mode": mode}
        save = entry(3, "SaveImage", "x", inputs=[slot("images", "IMAGE", 2)])
        return read_workflow(ui([load, invert, save], [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]))

    assert list(made(0).nodes) == ["1", "2", "3"]
    assert made(4).nodes["3"].inputs["images"] == ("1", 0)
    assert [(one.id, one.reason) for one in made(4).ignored] == [("2", "bypassed")]
    assert list(made(2).nodes) == ["1"]
    assert [(one.id, one.reason) for one in made(2).ignored] == [("2", "muted"), ("3", "reads a muted node")]


def test_reroutes_primitives_and_set_and_get_nodes_vanish() -> None:
    nodes = [
        entry(1, "PrimitiveNode", 12, "fixed"),
        entry(2, "LoadImage", "a.png", "image", outputs=IMAGE_OUT),
        entry(3, "Reroute", inputs=[slot("", "*", 1)], outputs=[{"name": "", "type": "IMAGE"}]),
        entry(4, "SetNode", "picture", inputs=[slot("IMAGE", "IMAGE", 2)]),
        entry(5, "GetNode", "picture", outputs=IMAGE_OUT),
        entry(6, "ImageScale", "bilinear", 8, 8, "disabled", inputs=[
            slot("image", "IMAGE", 3), slot("width", "INT", 4, widget={"name": "width"}),
        ], outputs=IMAGE_OUT),
        entry(7, "SaveImage", "x", inputs=[slot("images", "IMAGE", 5)]),
    ]  # fmt: skip
    links = [[1, 2, 0, 3, 0, "IMAGE"], [2, 3, 0, 4, 0, "IMAGE"], [3, 5, 0, 6, 0, "IMAGE"], [4, 1, 0, 6, 1, "INT"],
             [5, 6, 0, 7, 0, "IMAGE"]]  # fmt: skip
    workflow = read_workflow(ui(nodes, links))
    assert list(workflow.nodes) == ["2", "6", "7"]
    assert workflow.nodes["6"].inputs == {
        "upscale_method": "bilinear", "width": 12, "height": 8, "crop": "disabled", "image": ("2", 0),
    }  # fmt: skip


def subgraph(
    name: str, node: dict[str, Any], inputs: list[dict[str, Any]], links: list[tuple[int, ...]]
) -> dict[str, Any]:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    outputs = [{"name": "STRING", "type": "STRING"}]
    return {"id": name, "name": name, "nodes": [node], "inputs": inputs, "outputs": outputs,
            "links": [dict(zip(keys, link, strict=True)) for link in links]}  # fmt: skip


def test_nested_subgraphs_are_flattened_and_the_values_of_their_nodes_win() -> None:
    text = entry(1, "StringConcatenate", "stale", "inner", "-", inputs=[
        slot("string_a", "STRING", 1, widget={"name": "string_a"}),
    ])  # fmt: skip
    inner = subgraph("inner-id", text, [{"name": "a", "type": "STRING"}], [(1, -10, 0, 1, 0), (2, 1, 0, -20, 0)])
    inside = entry(7, "inner-id", inputs=[slot("a", "STRING", 1, widget={"name": "a"})])
    outer = subgraph("outer-id", inside, [{"name": "b", "type": "STRING"}], [(1, -10, 0, 7, 0), (2, 7, 0, -20, 0)])
    nodes = [entry(3, "outer-id", "promoted", inputs=[]), entry(4, "PreviewAny", inputs=[slot("source", "*", 9)])]
    data = ui(nodes, [[9, 3, 0, 4, 0, "*"]], definitions={"subgraphs": [inner, outer]})
    assert read_workflow(data).nodes["3:7:1"].inputs == {"string_a": "promoted", "string_b": "inner", "delimiter": "-"}
    nodes[0] = entry(3, "outer-id", "by proxy", inputs=[], properties={"proxyWidgets": [["-1", "b"]]})
    assert read_workflow(data).nodes["3:7:1"].inputs["string_a"] == "by proxy"
    outer["nodes"][0]["type"] = "outer-id"
    with pytest.raises(GraphFileError, match=r"Subgraphs are nested more than 16 deep, or contain themselves"):
        read_workflow(data)


def test_links_in_a_circle_are_refused() -> None:
    nodes = [entry(n, "Reroute", inputs=[slot("", "*", n)], outputs=[{"type": "*"}]) for n in (1, 2)]
    nodes.append(entry(3, "SaveImage", "x", inputs=[slot("images", "IMAGE", 3)]))
    with pytest.raises(GraphFileError, match="lead in a circle"):
        read_workflow(ui(nodes, [[1, 2, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"], [3, 1, 0, 3, 0, "*"]]))
    with pytest.raises(GraphFileError, match=r"read each other in a circle: 1 A, 2 B. Remove one of the links"):
        read_workflow(
            {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}, "2": {"class_type": "B", "inputs": {"x": ["1", 0]}}}
        )


def test_the_servers_declaration_names_the_widgets_of_unknown_types() -> None:
    info = {"Odd": {"input": {"required": {"model": ["MODEL"], "seed": ["INT", {}], "mode": [["a", "b"]]}}}}
    data = ui([entry(1, "Odd", 5, "randomize", "b")], [])
    assert read_workflow(data).nodes["1"].unnamed == (5, "randomize", "b")
    assert read_workflow(data, info).nodes["1"].inputs == {"seed": 5, "mode": "b"}


# ------------------------------------------------------------------------------------------------- files
@pytest.mark.parametrize("kind", ["png", "webp", "jpg"])
def test_a_workflow_is_read_from_a_picture(kind: str, tmp_path: Path) -> None:
    picture, file, text = Image.new("RGB", (8, 8)), tmp_path / f"x.{kind}", json.dumps(api())
    if kind == "png":
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", text)
        picture.save(file, pnginfo=info)
    else:
        exif = picture.getexif()
        exif[0x0110] = f"prompt:{text}"
        exif[0x010F] = "workflow:{}"
        picture.save(file, exif=exif)
    assert read_workflow(file).to_api() == read_workflow(api()).to_api()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[1]", "is no workflow of ComfyUI. Pass a file that ComfyUI saved."),
        ('{"a": 1}', "is neither the UI format of ComfyUI (with 'nodes' and 'links') nor its API format"),
        ('{"a": {"class_type": "A", "inputs": 3}}', "The inputs of the node 'a' are no object."),
        ("{", "is not JSON at line 1"),
    ],
)
def test_other_files_are_refused(content: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(GraphFileError) as error:
        read_workflow(tmp_path / "x.json")
    assert text in str(error.value)


def test_a_picture_without_a_workflow_and_a_video_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(GraphFileError, match=r"has no workflow\. Many sites remove it"):
        read_workflow(tmp_path / "x.png")
    with pytest.raises(GraphFileError, match="workflows in a video are not read"):
        read_workflow(tmp_path / "x.mp4")


# ------------------------------------------------------------------------------------------------- the command
def test_the_command_reports_and_writes_the_graph(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(api()))
    done = CliRunner().invoke(app, ["import", str(tmp_path / "x.json"), "-o", str(tmp_path / "out"), "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["preset"] == ["sd", "text2image"] and found["inputs"]["seed"] == 7
    assert [node["fate"] for node in found["nodes"]] == ["mapped"] * 7
    assert sf.Graph.load(tmp_path / "out").preset == ("sd", "text2image")
    text = CliRunner().invoke(app, ["import", str(tmp_path / "x.json")]).stdout.splitlines()
    assert text[0].endswith("x.json: sd/text2image") and "  seed=7" in text and "7 nodes: 7 mapped" in text
