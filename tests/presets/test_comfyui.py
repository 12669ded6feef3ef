"""Workflows of ComfyUI as graphs: those of families that are here run, and the rest has holes."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sfumato as sf
from sfumato.blocks.latents.full_noise import ScaleNoiseFully
from sfumato.components.conditioning import SDConditioning
from sfumato.components.types import Images, Rows
from sfumato.graph import BlockFailed
from sfumato.presets.bridge.comfyui import BLOCKS, Hole, Imported, from_comfyui, node, read_workflow
from sfumato.presets.bridge.comfyui.preset_form import single_of
from sfumato.presets.bridge.comfyui.reading import known_of
from sfumato.presets.bridge.comfyui.sampling import kept_by_floor, kept_by_flow, part_of
from sfumato.presets.bridge.comfyui.workflow import Workflow

from .comfyui_workflows import TEMPLATES, api, local_templates, lora_loader, pixels

RUN = (
    "image_sdxl_simple",
    "sdxlturbo_example",
    "sdxl_simple_example",
    "sd3.5_simple_example",
    "flux_schnell",
    "flux_schnell_full_text_to_image",
    "flux_dev_full_text_to_image",
    "flux1_krea_dev",
    "flux_kontext_dev_basic",
    "flux_dev_checkpoint_example",
    "sdxl_refiner_prompt_example",
    "flux_fill_inpaint_example",
    "flux_fill_outpaint_example",
    "image_flux.1_fill_dev_OneReward",
    "sd3.5_large_canny_controlnet_example",
    "sd3.5_large_blur",
    "flux_canny_model_example",
)
"""The templates of families that are here and whose models the tests have."""


# ------------------------------------------------------------------------------------------------- a plain workflow
def test_a_plain_workflow_is_the_preset_called_by_hand(comfy_models: Path) -> None:
    graph, inputs, report = from_comfyui(api(), models=comfy_models)
    assert graph.preset == ("sd", "text2image")
    assert inputs == {
        "prompt": "a (red:1.3) fox", "negative_prompt": "blurry", "seed": 7, "num_inference_steps": 3,
        "guidance_scale": 6.5, "height": 64, "width": 64,
    }  # fmt: skip
    assert not report.holes and not report.missing and not report.notes
    hand = sf.load(comfy_models / "checkpoints" / "v1-5-pruned-emaonly.safetensors", scheduler="euler_normal")
    hand = hand.replace("start", graph["start"])
    wanted = pixels(hand, **inputs, prompts="comfy")
    assert np.array_equal(pixels(graph, **inputs), wanted)
    # The workflow's settings are defaults, so that a user goes on with a prompt alone.
    assert np.array_equal(pixels(graph, prompt="a (red:1.3) fox", negative_prompt="blurry", seed=7), wanted)


def test_the_noise_of_a_full_run_has_the_variance_of_latents(comfy_models: Path) -> None:
    """ComfyUI multiplies by sqrt(1 + sigma^2), where sigma is the level of the first step."""
    steps = from_comfyui(api(), models=comfy_models).graph.bindings["scheduler"].steps(3)
    noise, positive = torch.ones(1, 4, 8, 8), SDConditioning(torch.zeros(1, 77, 64))
    latents, _ = ScaleNoiseFully()(noise, steps, positive, Rows(1, 1))
    assert torch.allclose(latents, torch.full_like(latents, (steps.sigmas[0] ** 2 + 1) ** 0.5))


def test_adapters_have_a_strength_for_the_denoiser_and_one_for_the_text_encoder(comfy_models: Path) -> None:
    graph, inputs, report = from_comfyui(api(**lora_loader()), models=comfy_models)
    assert not report.notes
    plain = from_comfyui(api(), models=comfy_models).graph
    adapter = sf.load_adapter(comfy_models / "loras" / "tiny.safetensors").scaled(unet=0.8, text_encoder=0.5)
    wanted = pixels(plain.with_adapters(adapter), **inputs)
    assert np.array_equal(pixels(graph, **inputs), wanted)
    assert not np.array_equal(wanted, pixels(plain, **inputs))


def test_image_to_image_has_comfyuis_steps_and_first_draw(comfy_models: Path, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "start.png")
    changes: dict[str, Any] = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "start.png"}},
        "latent": {"class_type": "VAEEncode", "inputs": {"pixels": ["load", 0], "vae": ["checkpoint", 2]}},
        "sample": {"denoise": 0.7, "steps": 5},
    }
    graph, inputs, report = from_comfyui(api(**changes), models=comfy_models, images=tmp_path)
    assert graph.preset == ("sd", "image2image") and not report.notes
    assert inputs["image"] == str(tmp_path / "start.png")
    assert inputs["num_inference_steps"] == 7  # the last 5 of int(5 / 0.7)
    assert pixels(graph, **inputs).shape == (1, 64, 64, 3)


def test_inpainting_has_the_size_of_the_picture_and_the_colours_under_its_mask(
    comfy_models: Path, tmp_path: Path
) -> None:
    picture = Image.effect_noise((104, 72), 60).convert("RGBA")
    picture.paste((200, 30, 30, 0), (40, 24, 72, 56))
    picture.save(tmp_path / "start.png")
    changes: dict[str, Any] = {
        "load": {"class_type": "LoadImage", "inputs": {"image": "start.png"}},
        "latent": {"class_type": "VAEEncodeForInpaint", "inputs": {
            "pixels": ["load", 0], "vae": ["checkpoint", 2], "mask": ["load", 1], "grow_mask_by": 0}},
    }  # fmt: skip
    graph, inputs, _ = from_comfyui(api(**changes), models=comfy_models, images=tmp_path)
    assert graph.preset == ("sd", "inpaint") and (inputs["height"], inputs["width"]) == (72, 104)
    assert inputs["image"].getpixel((50, 40)) == (200, 30, 30)
    assert [inputs["mask_image"].getpixel(at) for at in ((50, 40), (5, 5))] == [255, 0]
    assert pixels(graph, **inputs).shape == (1, 72, 104, 3)


@pytest.mark.parametrize("steps", [1, 4, 9, 20, 31])
@pytest.mark.parametrize("denoise", [0.05, 0.3, 0.55, 0.7, 0.97])
def test_a_strength_leaves_exactly_the_steps_that_a_sampler_asks_for(steps: int, denoise: float) -> None:
    for kept in (kept_by_floor, kept_by_flow):
        part = part_of(steps, denoise, kept)
        assert part.steps == int(steps / denoise)
        assert kept(part.steps, part.strength) == steps


# ------------------------------------------------------------------------------------------------- several samplers
def test_two_samplers_are_two_nodes_and_the_second_continues_the_first(comfy_models: Path) -> None:
    """Steps 0 to 2 and 2 to 4 of one schedule give what the whole gives."""
    half: dict[str, Any] = {"class_type": "KSamplerAdvanced", "inputs": {
        "add_noise": "enable", "noise_seed": 7, "steps": 4, "cfg": 6.5, "sampler_name": "euler", "scheduler": "normal",
        "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable", "model": ["checkpoint", 0],
        "positive": ["positive", 0], "negative": ["negative", 0], "latent_image": ["latent", 0]}}  # fmt: skip
    rest: dict[str, Any] = {"class_type": "KSamplerAdvanced", "inputs": {
        **half["inputs"], "add_noise": "disable", "start_at_step": 2, "end_at_step": 10000,
        "return_with_leftover_noise": "disable", "latent_image": ["half", 0]}}  # fmt: skip
    split = from_comfyui(api(half=half, sample=rest), models=comfy_models)
    assert [*split.graph.nodes] == ["positive", "negative", "sample", "reuse", "sample_2", "decode", "finish"]
    assert split.graph.slots == {"guider": ("sample.denoise.guider", "sample_2.denoise.guider")}
    whole = from_comfyui(api(sample={"steps": 4}), models=comfy_models)
    assert np.array_equal(pixels(split.graph, **split.inputs), pixels(whole.graph, **whole.inputs))


def test_hires_fix_enlarges_latents_between_two_samplers(comfy_models: Path) -> None:
    larger = {
        "class_type": "LatentUpscaleBy",
        "inputs": {"upscale_method": "bilinear", "scale_by": 1.5, "samples": ["sample", 0]},
    }
    second = {
        "class_type": "KSampler",
        "inputs": {**api()["sample"]["inputs"], "denoise": 0.5, "latent_image": ["larger", 0]},
    }
    made = from_comfyui(api(larger=larger, second=second, decode={"samples": ["second", 0]}), models=comfy_models)
    assert "enlarge" in made.graph.nodes and not made.report.holes
    assert pixels(made.graph, **made.inputs).shape == (1, 96, 96, 3)


# ------------------------------------------------------------------------------------------------- holes
class Doubled(NamedTuple):
    image: Images


class Double(sf.Block):
    """Repeat each pixel."""

    def __call__(self, image: Images) -> Doubled:
        return Doubled(image.repeat_interleave(2, 2).repeat_interleave(2, 3))


UPSCALE: dict[str, Any] = {
    "upscaler": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "4x.pth"}},
    "upscale": {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"upscale_model": ["upscaler", 0], "image": ["decode", 0]},
    },
    "save": {"images": ["upscale", 0]},
}


def test_a_node_without_a_block_is_a_hole_that_a_user_fills(comfy_models: Path) -> None:
    graph, inputs, report = from_comfyui(api(**UPSCALE), models=comfy_models)
    assert [(one.type, one.block) for one in report.holes] == [
        ("UpscaleModelLoader", ""), ("ImageUpscaleWithModel", "image_upscale_with_model"),
    ]  # fmt: skip
    hole = graph["image_upscale_with_model"]
    assert isinstance(hole, Hole) and hole.settings == (("upscale_model", "UpscaleModelLoader(model_name='4x.pth')"),)
    with pytest.raises(BlockFailed, match=r"The node ImageUpscaleWithModel of ComfyUI has no block: .* Put a block"):
        graph(**inputs)
    filled = graph.replace("image_upscale_with_model", Double())
    assert pixels(filled, **inputs).shape == (1, 128, 128, 3)


def test_a_graph_with_holes_is_saved_and_loaded(tmp_path: Path) -> None:
    graph = from_comfyui(api(**UPSCALE)).graph
    graph.save(tmp_path)
    assert sf.Graph.load(tmp_path) == graph
    assert isinstance(graph["image_upscale_with_model"], Hole)


def test_users_register_blocks_for_node_types(comfy_models: Path) -> None:
    @node("ImageUpscaleTwice", outputs=("image",))
    def double(settings: Mapping[str, Any]) -> sf.Block:
        return Double()

    try:
        changes = {**UPSCALE, "upscale": {"class_type": "ImageUpscaleTwice", "inputs": {"image": ["decode", 0]}}}
        made = from_comfyui(api(**changes), models=comfy_models)
        assert double({}) == Double() and [one.type for one in made.report.holes] == ["UpscaleModelLoader"]
        assert pixels(made.graph, **made.inputs).shape == (1, 128, 128, 3)
        with pytest.raises(sf.ConfigError, match="'ImageUpscaleTwice' has a block already"):
            node("ImageUpscaleTwice")
    finally:
        del BLOCKS["ImageUpscaleTwice"]


# ------------------------------------------------------------------------------------------------- published ones run
def with_pictures(workflow: Workflow, folder: Path) -> None:
    """Put small pictures into a folder, a part of each transparent, under the names that a workflow reads."""
    picture = Image.effect_noise((64, 64), 60).convert("RGBA")
    picture.paste((200, 30, 30, 0), (16, 16, 48, 48))
    for one in workflow.nodes.values():
        if one.type == "LoadImage":
            picture.save(folder / str(one.inputs["image"]), format="PNG")


def small(made: Imported) -> dict[str, Any]:
    """The inputs of a workflow, for two steps of a small picture."""
    inputs = dict(made.inputs)
    for name in inputs:
        plain = name.rstrip("_0123456789")
        inputs[name] = {"height": 64, "width": 64, "num_inference_steps": 2, "end_at_step": 1, "start_at_step": 1}.get(
            plain, inputs[name]
        )
    more = {"max_sequence_length": 16, "auto_resize": False, "max_area": 64 * 64}
    if "max_area" in made.graph.inputs:
        more |= {"height": 64, "width": 64}
    return {**inputs, **{name: value for name, value in more.items() if name in made.graph.inputs}}


@pytest.mark.filterwarnings("ignore:The prompt is longer")
@pytest.mark.parametrize("name", RUN)
def test_published_workflows_of_families_that_are_here_run(name: str, comfy_models: Path, tmp_path: Path) -> None:
    workflow = read_workflow(TEMPLATES / f"{name}.json")
    with_pictures(workflow, tmp_path)
    made = from_comfyui(workflow, models=comfy_models, images=tmp_path)
    assert not made.report.holes and not made.report.missing and not made.graph.check()
    assert "prompt" in made.inputs and not any("leaves out" in note for note in made.report.notes)
    images = pixels(made.graph, **small(made))
    assert images.shape == (1, 64, 64, 3) and np.isfinite(images).all() and images.std() > 0.01


@pytest.mark.parametrize("form", ["ui", "api"])
def test_every_local_image_template_becomes_a_graph(form: str) -> None:
    """The API format states no types of outputs: the inputs that read them say these."""
    for name in local_templates()[form == "api" :: 8]:  # all 120 in both forms take 20 s
        file = TEMPLATES / f"{name}.json"
        made = from_comfyui(file if form == "ui" else read_workflow(file).to_api())
        assert "images" in made.graph.outputs
        holes = {one.block for one in made.report.holes if one.block}
        assert all(isinstance(made.graph[block], Hole) for block in holes)


JUNK: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "a\x1b[31m", [], {}, [1, 2], ["1", 0], -10, -20)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in JSON, as its container and its key."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        yield data, key
        if isinstance(value, dict | list):
            yield from places(value)


@settings(max_examples=15)
@given(st.data())
def test_a_changed_file_is_imported_or_refused(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["sdxl_simple_example", "flux_kontext_dev_basic", "image_z_image_turbo"]))
    file = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
    if data.draw(st.booleans()):
        file = read_workflow(file).to_api()
    for _ in range(data.draw(st.integers(1, 3))):
        spots = [*places(file)]
        container, key = spots[data.draw(st.integers(0, len(spots) - 1))]
        if data.draw(st.booleans()):
            container[key] = data.draw(st.sampled_from(JUNK))
        else:
            del container[key]
    with contextlib.suppress(sf.SfumatoError):
        from_comfyui(file)


def test_a_template_of_a_family_that_is_here_is_a_preset() -> None:
    known = known_of(read_workflow(TEMPLATES / "flux_fill_inpaint_example.json"))
    single = single_of(known.saved[0][1])
    assert single is not None and (single.model.family, single.task) == ("flux", "inpaint")


def test_the_names_of_files_do_not_lead_out_of_the_folder(comfy_models: Path) -> None:
    for name in ("../../made/sd1.safetensors", str(comfy_models / "checkpoints" / "v1-5-pruned-emaonly.safetensors")):
        made = from_comfyui(api(checkpoint={"ckpt_name": name}), models=comfy_models)
        assert [one.name for one in made.report.missing] == [name]


def test_a_report_says_what_became_of_each_node() -> None:
    report = from_comfyui(api(**UPSCALE)).report
    assert str(report).splitlines() == [
        "9 nodes: 7 mapped, 2 hole",
        "  hole    upscaler UpscaleModelLoader: sfumato has no block for the type UpscaleModelLoader",
        "  hole    upscale ImageUpscaleWithModel -> image_upscale_with_model: sfumato has no block for the type "
        "ImageUpscaleWithModel",
        "  file    checkpoints/v1-5-pruned-emaonly.safetensors: not found",
    ]
