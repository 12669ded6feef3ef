"""Graphs with adapters as files: the adapters are written beside the graph and attached by its reader."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import sfumato as sf
from sfumato import Graph, GraphFileError
from sfumato.components.adapters.reading import adapter_of


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji")


def tensors(pipe: Graph, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for path, layer in pipe.bindings["unet"].load().named_modules():
        if path.endswith(("to_q", "to_v")) and isinstance(layer, nn.Linear):
            found[f"unet.{path}.lora_A.weight"] = torch.randn(2, layer.in_features, generator=generator) * 0.2
            found[f"unet.{path}.lora_B.weight"] = torch.randn(layer.out_features, 2, generator=generator) * 0.2
    return found


@pytest.fixture
def attached(pipe: Graph, tmp_path: Path) -> Graph:
    """Two files, one of them a folder of PEFT with its scale in the config, and one adapter without a file."""
    save_file(tensors(pipe, 1), tmp_path / "style.safetensors")
    peft = tmp_path / "peft"
    peft.mkdir()
    named = {key.replace("unet.", "base_model.model."): value for key, value in tensors(pipe, 2).items()}
    save_file(named, peft / "adapter_model.safetensors")
    (peft / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 1}))
    style = sf.load_adapter(tmp_path / "style.safetensors").scaled(0.7, blocks={"mid": 0.5}, unet=0.9).during(0, 0.5)
    made = adapter_of(tensors(pipe, 3).items(), name="made", source="made here").along((0, 1.0), (1, 0.5))
    return pipe.with_adapters(style, sf.load_adapter(peft, name="other"), made)


def latents(pipe: Graph) -> Tensor:
    return pipe.only("latents")(prompt="a fox", num_inference_steps=2, seed=1).latents


@pytest.mark.parametrize("how", ["save", "save_pretrained"])
def test_a_graph_with_adapters_survives_its_file(attached: Graph, tmp_path: Path, how: str) -> None:
    getattr(attached, how)(tmp_path / "saved")
    for name in ("style.safetensors", "peft"):
        place = tmp_path / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = sf.load(tmp_path / "moved")
    assert repr(again.adapters) == repr(attached.adapters)
    assert torch.equal(latents(again), latents(attached))
    again.save_pretrained(tmp_path / "moved")  # over itself
    assert torch.equal(latents(sf.load(tmp_path / "moved")), latents(attached))


def test_files_are_copied_as_they_are(attached: Graph, tmp_path: Path) -> None:
    attached.save(tmp_path / "saved")
    saved = tmp_path / "saved" / "adapters"
    assert (saved / "1" / "adapter.safetensors").read_bytes() == (tmp_path / "style.safetensors").read_bytes()
    assert sorted(path.name for path in (saved / "2").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    entry = json.loads((tmp_path / "saved" / "graph.json").read_text())["graph"]["adapters"][0]
    assert entry == {
        "name": "style", "strength": 0.7, "by_component": {"unet": 0.9}, "blocks": {"mid": 0.5}, "window": [0, 0.5],
        "curve": [], "file": "./adapters/1/adapter.safetensors",
    }  # fmt: skip


def test_adapters_of_single_prompts_are_values_of_a_call(pipe: Graph, tmp_path: Path) -> None:
    one = adapter_of(tensors(pipe, 3).items(), name="made", source="made here")
    text = r"has adapters for 2 prompts, which only a call can have\. Save the graph without them"
    with pytest.raises(GraphFileError, match=text):
        pipe.with_adapters([one], []).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"file": "../style.safetensors"}, r"leads out of the folder"),
        ({"file": "/etc/passwd"}, r"leads out of the folder"),
        ({"file": "./graph.json"}, r"style: has no file \./graph\.json, which must be a \.safetensors file\."),
        ({"file": "./none.safetensors"}, r"style: has no file \./none\.safetensors"),
        ({"blocks": {"up.7": 1.0}}, r"style: the models of the graph have no block 'up\.7'"),
        ({"window": [0.5, 0.5]}, r"during: needs 0 <= start < stop <= 1"),
        ({"curve": [[0.0, 1.0], [0.0, 2.0]]}, r"along: needs points \(fraction, factor\)"),
        ({"strength": "1"}, r"adapters\.style\.strength"),
        ({"path": "x"}, r"no known key"),
    ],
)
def test_entries_that_do_not_fit_are_refused(
    attached: Graph, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    attached.save(tmp_path / "saved")
    file = tmp_path / "saved" / "graph.json"
    data = json.loads(file.read_text())
    data["graph"]["adapters"] = [{**data["graph"]["adapters"][0], **change}]
    file.write_text(json.dumps(data))
    with pytest.raises(GraphFileError, match=text):
        sf.load(tmp_path / "saved")
