"""Graphs of presets as workflows of ComfyUI, and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato as sf
from sfumato.presets.bridge.comfyui import from_comfyui, read_workflow, to_comfyui
from sfumato.presets.bridge.comfyui.preset_form import single_of
from sfumato.presets.bridge.comfyui.reading import known_of

from .comfyui_workflows import TEMPLATES, api, lora_loader, pixels

SAME = (
    "image_sdxl_simple",
    "sd3.5_simple_example",
    "flux_schnell_full_text_to_image",
    "flux1_krea_dev",
)


@pytest.mark.parametrize("name", SAME)
def test_a_published_workflow_comes_back_as_the_same_graph(name: str, comfy_models: Path) -> None:
    graph, inputs, report = from_comfyui(TEMPLATES / f"{name}.json", models=comfy_models)
    again = from_comfyui(to_comfyui(graph, inputs), models=comfy_models)
    assert again.graph == graph
    assert again.inputs == inputs
    assert {one.name for one in again.report.files} == {one.name for one in report.files}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample": {"sampler_name": "dpmpp_2m", "scheduler": "karras"}},
        {"sample": {"sampler_name": "lcm", "scheduler": "sgm_uniform", "cfg": 1.5}},
        {"latent": {"batch_size": 3, "width": 96}},
        {"skip": {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["checkpoint", 1], "stop_at_clip_layer": -2}},
         "positive": {"clip": ["skip", 0]}, "negative": {"clip": ["skip", 0]}},
        {"zero": {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["positive", 0]}},
         "sample": {"negative": ["zero", 0]}},
        {"rescale": {"class_type": "RescaleCFG", "inputs": {"model": ["checkpoint", 0], "multiplier": 0.6}},
         "sample": {"model": ["rescale", 0]}},
        {"decode": {"class_type": "VAEDecodeTiled", "inputs": {
            "samples": ["sample", 0], "vae": ["checkpoint", 2], "tile_size": 256}}},
    ],
)  # fmt: skip
def test_nodes_of_a_plain_workflow_come_back(changes: dict[str, Any], comfy_models: Path) -> None:
    made = from_comfyui(api(**changes), models=comfy_models)
    assert made.graph.preset is not None
    again = from_comfyui(to_comfyui(made.graph, made.inputs), models=comfy_models)
    assert (again.graph, again.inputs) == (made.graph, made.inputs)


def test_adapters_come_back(comfy_models: Path) -> None:
    made = from_comfyui(api(**lora_loader()), models=comfy_models)
    written = to_comfyui(made.graph, made.inputs)
    lora = next(one for one in written.values() if one["class_type"] == "LoraLoader")["inputs"]
    assert (lora["lora_name"], lora["strength_model"], lora["strength_clip"]) == ("tiny.safetensors", 0.8, 0.5)
    again = from_comfyui(written, models=comfy_models)
    assert np.array_equal(pixels(again.graph, **again.inputs), pixels(made.graph, **made.inputs))


@pytest.mark.parametrize(("steps", "denoise"), [(20, 0.5), (12, 0.35), (7, 0.9)])
def test_image_to_image_comes_back(steps: int, denoise: float, comfy_models: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    changes: dict[str, Any] = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "latent": {"class_type": "VAEEncode", "inputs": {"pixels": ["load", 0], "vae": ["checkpoint", 2]}},
        "sample": {"steps": steps, "denoise": denoise},
    }
    made = from_comfyui(api(**changes), models=comfy_models, images=tmp_path)
    again = from_comfyui(to_comfyui(made.graph, made.inputs), models=comfy_models, images=tmp_path)
    assert (again.graph, again.inputs) == (made.graph, made.inputs)


def test_the_api_format_has_the_nodes_that_a_user_would_draw(comfy_models: Path) -> None:
    graph, inputs, _ = from_comfyui(api(), models=comfy_models)
    made = to_comfyui(graph, inputs)
    kinds = [one["class_type"] for one in made.values()]
    assert sorted(kinds) == sorted(node["class_type"] for node in api().values())
    assert read_workflow(made).to_api() == made


def test_a_graph_of_ones_own_names_the_blocks_without_a_node() -> None:
    pipe = sf.load("emoji")
    with pytest.raises(sf.GraphError) as error:
        to_comfyui(pipe.replace("denoise.guider", sf.guiders.AdaptiveProjectedGuidance()), {"prompt": "a fox"})
    assert str(error.value).splitlines() == [
        "ComfyUI has no nodes for this graph (1 problem):",
        "  denoise.guider: AdaptiveProjectedGuidance has no node",
    ]
    with pytest.raises(sf.GraphError) as error:
        to_comfyui(pipe, {"promt": "a fox"})
    assert "the graph has no input 'promt'" in str(error.value)
    with pytest.raises(sf.GraphError) as error:
        to_comfyui(pipe, {"prompt": "a fox"})
    assert str(error.value).splitlines()[1:] == ["  unet is in no single file. Pass files={'unet': 'name.safetensors'}"]


def test_a_pipeline_from_a_folder_is_written_with_names_of_files() -> None:
    pipe = sf.load("emoji", scheduler="euler_karras")
    names = {"unet": "emoji.safetensors"}
    made = to_comfyui(pipe, {"prompt": "a fox", "seed": 7}, files=names)
    known = known_of(read_workflow(made))
    single = single_of(known.saved[0][1])
    assert single is not None and single.stage.sampler.name == "euler" and single.stage.sigmas.curve == "karras"


GUIDER = sf.guiders.ClassifierFreeGuidance
STYLE = sf.load_adapter("emoji/adapters/two-tone.safetensors", name="style")


@pytest.mark.parametrize(
    ("change", "inputs", "text"),
    [
        (None, {"noise": "gpu"}, "the input 'noise' is in no node"),
        (None, {"stop_step": 2}, "the input 'stop_step' is in no node"),
        (None, {"clip_skip": 1}, "clip_skip=1 and negative_clip_skip=None differ, and a node skips layers for both"),
        (GUIDER(start=0.2), {}, "denoise.guider: start=0.2 is in no node"),
        (STYLE.during(0, 0.5), {}, "the strength of the adapter 'style' changes over the steps"),
        (STYLE.scaled(blocks={"mid": 0}), {}, "the strength of the adapter 'style' differs between blocks"),
        (sf.load_embedding("emoji/adapters/soft.safetensors"), {}, "the embedding 'soft' is attached."),
    ],
)  # fmt: skip
def test_what_no_node_has_is_refused(change: Any, inputs: dict[str, Any], text: str) -> None:
    pipe = sf.load("emoji", scheduler="euler_normal")
    if change is not None:
        pipe = pipe.using(guider=change) if isinstance(change, GUIDER) else pipe.with_adapters(change)
    with pytest.raises(sf.GraphError) as error:
        to_comfyui(pipe, {"prompt": "a fox", **inputs}, files={"unet": "emoji.safetensors"})
    assert str(error.value).splitlines()[1].startswith(f"  {text}") and "(1 problem)" in str(error.value)


def test_parentheses_of_a_plain_prompt_are_no_weights() -> None:
    pipe = sf.load("emoji", scheduler="euler_normal")
    texts = {"prompt": "a fox (red:1.5)", "negative_prompt": "(bad)"}
    made = to_comfyui(pipe, texts, files={"unet": "emoji.safetensors"})
    written = [one["inputs"]["text"] for one in made.values() if one["class_type"] == "CLIPTextEncode"]
    assert written == [r"a fox \(red:1.5\)", r"\(bad\)"]
    weighted = to_comfyui(pipe, {**texts, "prompts": "comfy"}, files={"unet": "emoji.safetensors"})
    assert [one["inputs"]["text"] for one in weighted.values() if "text" in one["inputs"]] == [*texts.values()]
