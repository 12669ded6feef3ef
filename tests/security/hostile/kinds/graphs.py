"""`graph.json`: odd values everywhere, names that run something, nodes without end."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sfumato as sf

from ..checkpoint import CALL, checkpoint, each, fresh
from ..table import Action, Hostile, drawn, repeats
from .odd import changes, put
from .weights import CONTROL

Change = Callable[[dict[str, Any]], Any]


def _node(**node: Any) -> Change:
    return lambda data: data["graph"]["nodes"].append(node)


def _component(name: str, entry: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        data["graph"]["components"][name] = entry

    return change


def _key(name: str, value: Any) -> Change:
    return lambda data: data.update({name: value})


def _in_graph(name: str, value: Any) -> Change:
    return lambda data: data["graph"].update({name: value})


def _nested(depth: int) -> Any:
    graph: dict[str, Any] = {"nodes": [], "edges": [], "outputs": []}
    for i in range(depth):
        graph = {"nodes": [{"name": f"n{i}", "graph": graph}], "edges": [], "outputs": []}
    return graph


def _named(depth: int) -> Any:
    node: dict[str, Any] = {"block": "latents.start.CountRows", "config": {}}
    for _ in range(depth):
        node = {"block": "Named", "names": {}, "of": node}
    return {"name": "deep", **node}


CHANGES: dict[str, Change] = {
    "a block of os": _node(name="x", block="os.system", config={}),
    "a block with a path": _node(name="x", block="../../x", config={}),
    "a block with control characters": _node(name="x", block=CONTROL, config={}),
    "a node with control characters": _node(name=CONTROL, block="latents.start.CountRows", config={}),
    "a node of a long name": _node(name="x" * 10**5, block="latents.start.CountRows", config={}),
    "a node of a dangerous name": _node(name="__class__", block="latents.start.CountRows", config={}),
    "a node of HTML": _node(name="<script>", block="latents.start.CountRows", config={}),
    "a block with a Greek name": _node(name="ｘ", block="latents.start.CountRows", config={}),
    "20,000 nodes": lambda d: d["graph"]["nodes"].extend(
        {"name": f"n{i}", "block": "latents.start.CountRows", "config": {}} for i in range(20_000)
    ),
    "100,000 edges": lambda d: d["graph"]["edges"].extend(
        [{"from": "inputs.prompt", "to": "positive.prompt", "how": "ruled"}] * 100_000
    ),
    "an edge backwards": lambda d: d["graph"]["edges"].append(
        {"from": "finish.images", "to": "positive.prompt", "how": "pinned"}
    ),
    "an edge to itself": lambda d: d["graph"]["edges"].append(
        {"from": "rows.rows", "to": "rows.positive", "how": "pinned"}
    ),
    "an edge with control characters": lambda d: d["graph"]["edges"].append(
        {"from": CONTROL, "to": CONTROL, "how": "pinned"}
    ),
    "an edge of points": lambda d: d["graph"]["edges"].append({"from": "....", "to": ".", "how": "pinned"}),
    "edges cut": lambda d: d["graph"].update(edges=d["graph"]["edges"][:3]),
    "graphs of 60 levels": lambda d: d.update(graph=_nested(60)),
    "a node of 150 levels": lambda d: d["graph"]["nodes"].append({"name": "deep", "graph": _nested(150)}),
    "200 names of a name": lambda d: d["graph"]["nodes"].append(_named(200)),
    "outputs twice": _in_graph("outputs", ["images", "images"]),
    "outputs of control characters": _in_graph("outputs", [CONTROL]),
    "a preset that is none": _in_graph("preset", [CONTROL, "x"]),
    "a preset of another family": _in_graph("preset", ["flux", "text2image"]),
    "slots to nowhere": _in_graph("slots", {CONTROL: [CONTROL], "guider": ["..", ""]}),
    "slots that are components": _in_graph("slots", {"unet": ["denoise.guider"]}),
    "10,000 slots": _in_graph("slots", {f"s{i}": ["denoise.guider"] for i in range(10_000)}),
    "a component of this machine": _component(
        "unet",
        {"pretrained_model_name_or_path": "/etc", "subfolder": "", "type_hint": ["diffusers", "UNet2DConditionModel"]},
    ),
    "a component above": _component(
        "unet",
        {
            "pretrained_model_name_or_path": "../..",
            "subfolder": "unet",
            "type_hint": ["diffusers", "UNet2DConditionModel"],
        },
    ),
    "a component of os": _component("unet", {"type_hint": ["os", "system"], "config": {}}),
    "a component of numbers": _component("unet", 7),
    "a component with control characters": _component(CONTROL, None),
    "a component of the package": _component(
        "unet", {"pretrained_model_name_or_path": "sfumato:../../..", "subfolder": "etc"}
    ),
    "a component of eval": _component(
        "unet", {"type_hint": ["builtins", "eval"], "pretrained_model_name_or_path": "x/y"}
    ),
    "a component by config alone": _component(
        "unet", {"type_hint": ["diffusers", "UNet2DConditionModel"], "config": {"block_out_channels": [2**16] * 4}}
    ),
    "a scheduler of 10**9 steps": _component(
        "scheduler", {"type_hint": ["diffusers", "DDIMScheduler"], "config": {"num_train_timesteps": 10**9}}
    ),
    "a scheduler by class": _component("scheduler", {"_class_name": CONTROL}),
    "format 3": _key("format", 3),
    "format true": _key("format", True),
    "format text": _key("format", CONTROL),
    "an unknown key": _key(CONTROL, 1),
    "the writer": _key("sfumato", CONTROL),
    "an auto_map above": _key("auto_map", {"x.Y": "../../etc/passwd.Y"}),
    "an auto_map of os": _key("auto_map", {"os.system": "os.system"}),
    "an auto_map of 50,000": _key("auto_map", {f"x.Y{i}": "x.Y" for i in range(50_000)}),
    "an auto_map of lists": _key("auto_map", {"x.Y": ["x.Y", None]}),
    "code of many hashes": _key("code", {f"{i}.py": "0" * 64 for i in range(50_000)}),
    "code above": _key("code", {"../../x.py": "0" * 64}),
    "requirements": _key("requirements", {CONTROL: CONTROL}),
    "requirements that install": _key("requirements", {"--index-url=http://x": "*"}),
}
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "deep lists": b'{"format": 2, "graph": ' + b"[" * 100_000,
    "deep objects": b'{"format": 2, "graph": ' + b'{"nodes":' * 100_000,
    "deep graphs": json.dumps({"format": 2, "graph": _nested(150)}).encode(),
    "not UTF-8": b'{"format": 2, "graph": {"nodes": [], "\xff": 1}}',
    "not a number": b'{"format": NaN, "graph": {}}',
    "a web page": b"<html>",
    "a name twice": b'{"format": 2, "format": 2, "graph": {}}',
    "10 MB of spaces": b" " * 10**7,
    "100,000 wrong keys": b'{"format": 2, "graph": {' + b",".join(b'"k%d":0' % i for i in range(100_000)) + b"}}",
    "100,000 wrong nodes": b'{"format": 2, "graph": {"nodes": [' + b",".join([b"7"] * 100_000) + b"]}}",
    "wrong keys of control characters": json.dumps(
        {"format": 2, "graph": {"nodes": [{"name": "x", CONTROL: 1}]}}
    ).encode(),
}


def inputs() -> Iterator[Hostile]:
    """Changes by hand, texts, and odd values in many places of a whole graph file."""
    for name, change in CHANGES.items():
        yield Hostile(name, lambda place, c=change: _changed(place, c))
    for name, text in TEXTS.items():
        yield Hostile(f"text: {name}", lambda place, t=text: _text(place, t))
    for k in repeats(90):
        yield Hostile(f"an odd value at random {k}", lambda place, k=k: _odd(place, k))


def _saved(place: Path) -> Path:
    folder = checkpoint(place)
    sf.load(folder, manager=fresh()).save(folder)
    return folder / "graph.json"


def _changed(place: Path, change: Change) -> Action:
    file = _saved(place)
    data = json.loads(file.read_text())
    change(data)
    return _text_of(file, json.dumps(data).encode())


def _text(place: Path, text: bytes) -> Action:
    return _text_of(_saved(place), text)


def _odd(place: Path, k: int) -> Action:
    file = _saved(place)
    data = json.loads(file.read_text())
    random = drawn(f"graph {k}")
    _, at, value = random.choice([*changes(data, random, 1)])
    put(data, at, copy.deepcopy(value))
    return _text_of(file, json.dumps(data).encode())


def _text_of(file: Path, text: bytes) -> Action:
    file.write_bytes(text)
    folder = file.parent

    def action() -> list[object]:
        graph: list[sf.Graph] = []
        return each(
            lambda: str(sf.inspect(folder)),
            lambda: graph.append(sf.load(folder, manager=fresh())),
            lambda: str(graph[0].show()) if graph else "",
            lambda: str(graph[0].show("svg")) if graph else "",
            lambda: str(graph[0].show("mermaid")) if graph else "",
            lambda: graph[0](**CALL) if graph else "",
        )

    return action
