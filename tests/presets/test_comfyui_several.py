"""Several prompts, changed layers, and pictures that nodes of ComfyUI change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.presets.bridge.comfyui import from_comfyui

from .comfyui_workflows import api, pixels

SECOND: dict[str, Any] = {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["checkpoint", 1]}}
XL = {"ckpt_name": "sd_xl_base_1.0.safetensors"}


def with_prompt(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The default workflow with nodes behind its positive prompt, the last of which the sampler reads."""
    named = {f"n{number}": one for number, one in enumerate(nodes)}
    return api(second=SECOND, sample={"positive": [f"n{len(nodes) - 1}", 0]}, **named, **changes)


def one(kind: str, source: str = "positive", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": {"conditioning": [source, 0], **inputs}}


def drawn(made: Any) -> Any:
    assert not made.report.holes, made.report
    return pixels(made.graph, **made.inputs)


COMBINE = {"class_type": "ConditioningCombine",
           "inputs": {"conditioning_1": ["positive", 0], "conditioning_2": ["second", 0]}}  # fmt: skip


@pytest.mark.parametrize("checkpoint", [{}, XL], ids=["sd", "sdxl"])
def test_prompts_in_turns_and_over_the_whole_picture(checkpoint: dict[str, Any], comfy_models: Path) -> None:
    """A prompt over all steps, or beside itself, or in an area of all of the picture, is that prompt."""
    plain = drawn(from_comfyui(api(checkpoint=checkpoint), models=comfy_models))
    itself = {**COMBINE, "inputs": {"conditioning_1": ["positive", 0], "conditioning_2": ["n0", 0]}}
    areas = one("ConditioningSetArea", width=64, height=64, x=0, y=0, strength=0.5)
    turns = [
        one("ConditioningSetTimestepRange", start=0.0, end=0.4),
        one("ConditioningSetTimestepRange", start=0.4, end=1.0),
        {**COMBINE, "inputs": {"conditioning_1": ["n0", 0], "conditioning_2": ["n1", 0]}},
    ]
    for nodes in ([areas, itself], turns):
        made = from_comfyui(with_prompt(*nodes, checkpoint=checkpoint), models=comfy_models)
        assert np.abs(drawn(made) - plain).max() < 1e-4
    other = drawn(from_comfyui(with_prompt(COMBINE, checkpoint=checkpoint), models=comfy_models))
    assert np.abs(other - plain).max() > 1e-3


def test_prompts_have_weights_and_masks(comfy_models: Path) -> None:
    solid = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": 64, "height": 64}}
    masked = one("ConditioningSetMask", mask=["mask", 0], strength=0.7, set_cond_area="default")
    plain = drawn(from_comfyui(api(), models=comfy_models))
    made = from_comfyui(with_prompt(masked, mask=solid), models=comfy_models)
    assert np.abs(drawn(made) - plain).max() < 1e-4
    weak = one("ConditioningSetAreaPercentage", "second", width=0.5, height=1.0, x=0.5, y=0.0, strength=0.0)
    both = {**COMBINE, "inputs": {"conditioning_1": ["positive", 0], "conditioning_2": ["n0", 0]}}
    made = from_comfyui(with_prompt(weak, both), models=comfy_models)
    assert np.abs(drawn(made) - plain).max() < 1e-4
    negative = {**COMBINE, "inputs": {"conditioning_1": ["negative", 0], "conditioning_2": ["negative", 0]}}
    made = from_comfyui(api(n=negative, sample={"negative": ["n", 0]}), models=comfy_models)
    assert np.abs(drawn(made) - plain).max() < 1e-4


def test_prompts_that_are_joined_to_one(comfy_models: Path) -> None:
    plain = drawn(from_comfyui(api(), models=comfy_models))

    def joined(kind: str, **inputs: Any) -> Any:
        links = {"conditioning_to": ["positive", 0], "conditioning_from": ["second", 0]}
        node = {"class_type": kind, "inputs": {**links, **inputs}}
        return drawn(from_comfyui(with_prompt(node), models=comfy_models))

    assert np.abs(joined("ConditioningAverage", conditioning_to_strength=1.0) - plain).max() < 1e-5
    assert np.abs(joined("ConditioningAverage", conditioning_to_strength=0.5) - plain).max() > 1e-3
    assert np.abs(joined("ConditioningConcat") - plain).max() > 1e-3


def test_layers_are_changed(comfy_models: Path) -> None:
    def changed(kind: str, **inputs: Any) -> Any:  # a block
        node = {"class_type": kind, "inputs": {"model": ["checkpoint", 0], **inputs}}
        made = from_comfyui(api(patch=node, sample={"model": ["patch", 0]}), models=comfy_models)
        assert not made.report.holes and made.graph.preset == ("sd", "text2image")
        return made.graph["denoise.tap"]

    freeu = changed("FreeU_V2", b1=1.1, b2=1.2, s1=0.9, s2=0.2)
    assert str(freeu.change) == str(type(freeu.change)(b1=1.1, b2=1.2, s1=0.9, s2=0.2, version=2))
    assert changed("TomePatchModel", ratio=0.3).change.ratio == 0.3


def test_pictures_go_through_nodes(comfy_models: Path) -> None:
    edges = {"class_type": "Canny", "inputs": {"low_threshold": 0.1, "high_threshold": 0.2, "image": ["decode", 0]}}
    mask = {"class_type": "ImageToMask", "inputs": {"channel": "red", "image": ["edges", 0]}}
    grown = {"class_type": "GrowMask", "inputs": {"expand": 2, "tapered_corners": True, "mask": ["mask", 0]}}
    blurred = {"class_type": "ImageBlur", "inputs": {"blur_radius": 2, "sigma": 1.0, "image": ["decode", 0]}}
    pasted = {"class_type": "ImageCompositeMasked", "inputs": {
        "x": 0, "y": 0, "resize_source": False, "destination": ["decode", 0], "source": ["blurred", 0],
        "mask": ["grown", 0]}}  # fmt: skip
    stitched = {"class_type": "ImageStitch", "inputs": {
        "direction": "right", "match_image_size": True, "spacing_width": 4, "spacing_color": "black",
        "image1": ["pasted", 0], "image2": ["edges", 0]}}  # fmt: skip
    nodes = {"edges": edges, "mask": mask, "grown": grown, "blurred": blurred, "pasted": pasted, "stitched": stitched}
    made = from_comfyui(api(**nodes, save={"images": ["stitched", 0]}), models=comfy_models)
    picture = torch.from_numpy(drawn(made))[0]
    assert tuple(picture.shape) == (64, 132, 3)
    assert set(picture[:, 64:].unique().tolist()) <= {0.0, 1.0}
