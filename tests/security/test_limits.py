"""Limits on what files and calls state: one answer for each kind of JSON that is none, and counts before the work."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

import sfumato as sf
from sfumato.components.loading.sentencepiece import read_sentencepieces
from sfumato.components.quantization.gguf.reader import GGUFFile
from sfumato.components.storage import building
from sfumato.components.storage.building import on_meta
from sfumato.components.storage.files import read_json
from sfumato.components.storage.tensors import SafetensorFiles
from sfumato.graph.files.reading import from_json
from sfumato.graph.json_text import JsonTextError, parse
from sfumato.graph.limits import LIMITS, AboveLimit, check_limit, limit, raise_limit
from sfumato.registry import closest, schedulers

ANSWERS: dict[str, tuple[bytes, str]] = {
    "a key twice": (b'{"a": 1, "a": 2}', "has the key 'a' twice in one object"),
    "a list": (b"[1]", "needs a JSON object, got list"),
    "a text": (b'"x"', "needs a JSON object, got str"),
    "null": (b"null", "needs a JSON object, got NoneType"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is text in UTF-16. Save it as UTF-8"),
    "other bytes": (b'{"a": "\xff"}', "is not a text file"),
    "half of a letter": (b'{"a": "\\ud83d"}', r"has \\ud83d alone, which is half of a letter"),
    "half of a letter as a key": (b'{"\\udc00": 1}', r"has \\udc00 alone"),
    "NaN": (b'{"a": NaN}', "has NaN, which is not JSON and no number"),
    "a float too large": (b'{"a": 1e999}', "has the number 1e999, which is larger than any float"),
    "an integer of 401 digits": (b'{"a": 1' + b"0" * 400 + b"}", "has 401 digits, and the limit is 40"),
    "lists in lists": (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "is nested more than 128 levels deep"),
    "lists in lists without end": (b"[" * 100_000, "is nested more than 128 levels deep"),
    "many lists": (b"[" + b"[]," * 600_000 + b"[]]", "has 600,001 values"),
    "many values": (b"[" + b"1," * 1_100_000 + b"1]", "has 1,100,001 values"),
    "many keys": (json.dumps({f"k{i}": 0 for i in range(2_000)}).encode(), "has 2,000 keys"),
    "a long key": (json.dumps({"k" * 5_000: 0}).encode(), "has 5,000 letters"),
    "many bytes": (b" " * (5 * 2**20), "has 5,242,880 bytes"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_json_that_is_not_a_config_has_one_answer(name: str, tmp_path: Path) -> None:
    data, text = ANSWERS[name]
    (tmp_path / "config.json").write_bytes(data)
    start = time.process_time()
    with pytest.raises(sf.LoadError, match=f"config.json: {text}"):
        read_json(tmp_path / "config.json")
    assert time.process_time() - start < 2


def test_a_byte_order_mark_infinity_and_whole_letters_are_read(tmp_path: Path) -> None:
    text = '\ufeff{"lambda_min_clipped": -Infinity, "a": "\\ud83e\\udd8a", "b": "\\\\ud83d"}'
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"lambda_min_clipped": -float("inf"), "a": "\U0001f98a", "b": "\\ud83d"}
    with pytest.raises(JsonTextError, match="has -Infinity, which is not JSON"):
        parse('{"a": -Infinity}')


def test_each_limit_has_a_reason_and_may_be_raised() -> None:
    assert all(entry.value > 0 and entry.unit and len(entry.reason) > 8 for entry in LIMITS.values())
    with pytest.raises(AboveLimit, match=r'raise the limit: sfumato.graph.limits.raise_limit\("shards", 2000\)'):
        check_limit("shards", 2_000)
    try:
        raise_limit("shards", 2_000)
        check_limit("shards", 2_000)
    finally:
        raise_limit("shards", LIMITS["shards"].value)
    with pytest.raises(KeyError, match="There is no limit 'shard'"):
        raise_limit("shard", 1)


# ---------------------------------------------------------------------------------------------------- graphs
class Sum(NamedTuple):
    """A number."""

    x: int


class Add(sf.Block):
    """Add a number."""

    by: int = 1

    def __call__(self, x: int) -> Sum:
        return Sum(x + self.by)


def a_file(nodes: list[Any], edges: list[Any]) -> dict[str, Any]:
    """The content of a graph file."""
    graph = {"nodes": nodes, "edges": edges, "outputs": ["x"], "slots": {}}
    return {"format": 2, "sfumato": "0.1.0", "graph": graph}


def a_chain(count: int) -> dict[str, Any]:
    """Nodes that each read the one before."""
    givers = ["inputs", *(f"n{i}" for i in range(count - 1))]
    edges = [{"from": f"{giver}.x", "to": f"n{i}.x", "how": "ruled"} for i, giver in enumerate(givers)]
    return a_file([{"name": f"n{i}", "block": "Add", "config": {}} for i in range(count)], edges)


def a_fan(count: int) -> dict[str, Any]:
    """Nodes that all read one, and one that nobody can be."""
    names = [f"x{i}" for i in range(count)]
    nodes = [
        {"name": f"n{i}", "block": "Named", "names": {"x": name}, "of": {"block": "Add", "config": {}}}
        for i, name in enumerate(names)
    ]
    return a_file(nodes, [{"from": f"m{i}.x", "to": f"n{i}.x", "how": "pinned"} for i in range(count)])


def nested(depth: int) -> dict[str, Any]:
    """Graphs within each other."""
    inner = a_chain(1)["graph"]
    for _ in range(depth):
        inner = {**a_chain(1)["graph"], "nodes": [{"name": "n0", "block": "Graph", "graph": inner}]}
    return {**a_chain(1), "graph": inner}


def seconds(action: Callable[[], object]) -> float:
    """The seconds of the processor that an action takes."""
    start = time.process_time()
    action()
    return time.process_time() - start


def test_a_chain_of_as_many_nodes_as_allowed_is_read_and_checked_in_two_seconds() -> None:
    graphs: list[Any] = []
    assert seconds(lambda: graphs.append(from_json(sf.Graph, a_chain(limit("graph_nodes")), classes={"Add": Add}))) < 2
    assert seconds(graphs[0].check) < 2


def test_thousands_of_wrong_edges_are_refused_in_two_seconds() -> None:
    def read() -> None:
        with pytest.raises(sf.GraphFileError, match="which is no node"):
            from_json(sf.Graph, a_fan(limit("graph_nodes") // 2), classes={"Add": Add})

    assert seconds(read) < 2


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (a_chain(1_001), "has more than 1,000 nodes"),
        (a_file([], [{"from": "a.x", "to": "b.x", "how": "ruled"}] * 10_001), "has more than 10,000 edges"),
        (nested(20), "has more than 16 graphs within each other"),
        (a_file([{"name": "n" * 500, "block": "Add", "config": {}}], []), "has 500 letters in a name"),
    ],
    ids=["nodes", "edges", "graphs", "names"],
)
def test_a_graph_file_with_too_many_parts_is_refused(content: dict[str, Any], text: str) -> None:
    with pytest.raises(sf.GraphFileError, match=text):
        from_json(sf.Graph, content, classes={"Add": Add})


# ---------------------------------------------------------------------------------------------------- weights
def test_headers_of_weights_are_counted_before_they_are_read(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    for header, text in (
        ({f"t{i}": entry for i in range(70_000)}, "its header has 70,000 tensors"),
        ({"t" * 10**6: entry}, "has 1,000,000 letters in the name of a tensor"),
        ({"t": {**entry, "shape": [0] * 9}}, "a tensor has 9 dimensions"),
    ):
        data = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(data)) + data)
        with pytest.raises(sf.LoadError, match=text):
            SafetensorFiles([file])
    texts = struct.pack("<IIQQ", 0x46554747, 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 8, 10**6)
    (tmp_path / "x.gguf").write_bytes(texts + bytes(8 * 10**6))
    with pytest.raises(sf.LoadError, match="its header has 1,000,000 texts and lists"):
        GGUFFile(tmp_path / "x.gguf")


def test_numbers_without_end_in_a_vocabulary_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"\x80" * 10**6)
    with pytest.raises(sf.LoadError, match="has more than 64 bits"):
        read_sentencepieces(tmp_path / "spiece.model")
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x00" * 10**6)
    with pytest.raises(sf.LoadError, match="has more than 524,288 pieces"):
        read_sentencepieces(tmp_path / "spiece.model")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"layers_per_block": 10**6}, "layers_per_block  has 1,000,000 layers, and the limit is 512"),
        ({"block_out_channels": [0, 320, 320, 320]}, "block_out_channels  needs 1 or more, got"),
        ({"cross_attention_dim": 10**400}, "has more than 1,000,000,000,000,000 channels"),
        ({"norm_eps": float("nan")}, "norm_eps  needs"),
        ({"block_out_channels": [320] * 10_000}, "has 10,000 entries"),
        ({"block_out_channels": [131_072] * 4}, "numbers, and the limit is 137,438,953,472"),
        ({"layers_per_block": 512}, "has more than 4,096 tensors"),
    ],
    ids=str,
)
def test_a_model_that_nobody_has_is_refused(config: dict[str, Any], text: str) -> None:
    with on_meta(), pytest.raises(sf.ConfigError, match=text):
        sf.models.UNet2DConditionModel.from_config(config)


def test_a_model_larger_than_the_memory_of_the_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "machine_memory", lambda: 10**9)
    with pytest.raises(sf.ConfigError, match=r"UNet2DConditionModel has \d+\.\d GB of weights"):
        sf.models.UNet2DConditionModel(block_out_channels=[640] * 4)


@pytest.mark.parametrize("name", schedulers)
def test_every_scheduler_bounds_its_training_steps(name: str) -> None:
    kind = schedulers[name]
    if "num_train_timesteps" in kind.__dataclass_fields__:
        for count in (0, -1, 10**9):
            with pytest.raises(sf.ConfigError, match="num_train_timesteps"):
                kind(num_train_timesteps=count)


# ---------------------------------------------------------------------------------------------------- calls
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"width": 10**9}, "width  takes int .*less than or equal to 16384"),
        ({"height": 2**70}, "height  takes int .*less than or equal to 16384"),
        ({"num_inference_steps": 10**9}, "num_inference_steps  takes int .*less than or equal to 10000"),
        ({"num_images_per_prompt": 10**9}, "num_images_per_prompt  takes int .*less than or equal to 1024"),
    ],
    ids=str,
)
def test_a_call_that_no_machine_can_run_is_refused_before_it_runs(values: dict[str, int], text: str) -> None:
    with pytest.raises(sf.InputError, match=text):
        sf.load("emoji")(prompt="a fox", **values)


def test_a_call_for_more_pixels_than_a_batch_has_is_refused() -> None:
    with pytest.raises(sf.UnfitValue, match="A call for 64 pictures of 16384x16384 has 17,179,869,184 pixels"):
        sf.load("emoji")(prompt="a fox", height=16_384, width=16_384, num_images_per_prompt=64)
    with pytest.raises(sf.InputError, match="less than or equal to 16384"):
        sf.load("emoji", task="image2image")(prompt="a fox", image=Image.new("RGB", (64, 64)), height=10**9)


def test_suggestions_for_long_names_cost_nothing() -> None:
    assert closest("x" * 10**6, ["y" * 10**6]) == []
