"""Folders of pipelines with control nets: the graph comes with their blocks in place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph

from .control import ControlReference, Nets
from .control import nets as nets
from .support import Reference, half, picture, quiet, run

Same = Callable[..., object]
GIVEN: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 3, "seed": 3, "height": 64, "width": 64}


@pytest.fixture(scope="module")
def saved(
    diffusers: Any, nets: Nets, tiny_reference: Callable[[str], Reference], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Any]]:
    """The folder of a reference pipeline with such nets, and the nets."""

    def make(pipeline: str, *made: Any) -> tuple[Path, Any]:
        parts = tiny_reference("sd").pipe.components
        held = "adapter" if "Adapter" in pipeline else "controlnet"
        theirs = [net.theirs for net in made]
        folder = tmp_path_factory.mktemp("pipeline")
        with quiet():
            parts = {n: p for n, p in parts.items() if n != "image_encoder"}
            given = {**parts, held: theirs if len(theirs) > 1 else theirs[0], "requires_safety_checker": False}
            pipe = getattr(diffusers, pipeline)(**given)
            pipe.save_pretrained(folder)
        return folder, getattr(pipe, held)

    return make


@pytest.fixture(scope="module")
def theirs(diffusers: Any, tiny_reference: Callable[[str], Reference]) -> ControlReference:
    return ControlReference(diffusers, tiny_reference("sd").pipe, "StableDiffusion")


def test_a_control_net_in_the_index_is_there_and_bound(
    saved: Callable[..., tuple[Path, Any]],
    nets: Nets,
    theirs: ControlReference,
    tiny_reference: Callable[[str], Reference],
    same: Same,
) -> None:
    folder, net = saved("StableDiffusionControlNetPipeline", nets.control(tiny_reference("sd").pipe.unet))
    pipe = sf.load(folder)
    assert "control_image" in pipe.inputs
    assert not pipe.check()
    given: dict[str, Any] = {**GIVEN, "control_image": picture(9)}
    same(run(pipe, **given), theirs("text2image", net, **given))
    given |= {"image": picture(1), "mask_image": half(), "strength": 1.0, "controlnet_conditioning_scale": 1.0}
    same(run(pipe.task("inpaint"), **given), theirs("inpaint", net, **given))
    loaded: Graph = sf.load(folder, "inpaint")
    assert loaded == pipe.task("inpaint")


@pytest.mark.parametrize("padding", [0, 12])
def test_control_pictures_are_cropped_with_the_picture(
    diffusers: Any,
    saved: Callable[..., tuple[Path, Any]],
    nets: Nets,
    tiny_reference: Callable[[str], Reference],
    padding: int,
) -> None:
    """Pixels are within one of 255: both put whole numbers back."""
    name = "StableDiffusionControlNetInpaintPipeline"
    folder, net = saved(name, nets.control(tiny_reference("sd").pipe.unet))
    spot = Image.new("L", (96, 96))
    spot.paste(255, (30, 40, 60, 70))
    given: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 3, "height": 64, "width": 64}
    given |= {"image": picture(1, 96, 96), "mask_image": spot, "control_image": picture(9, 96, 96)}
    given |= {"padding_mask_crop": padding, "controlnet_conditioning_scale": 1.0}
    with quiet():
        pipe = getattr(diffusers, name).from_pretrained(
            folder, controlnet=net, safety_checker=None, requires_safety_checker=False
        )
        pipe.set_progress_bar_config(disable=True)
        theirs = pipe(generator=torch.Generator().manual_seed(3), **given).images[0]
    inpaint = sf.load(folder, "inpaint")
    ours = inpaint(seed=3, **given).images[0]
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    with pytest.raises(ValueError, match=r"image and control picture of one size, got 96x96 and 64x64\. Resize one\."):
        inpaint(seed=3, **{**given, "control_image": picture(9)})


def test_several_control_nets_are_numbered(
    saved: Callable[..., tuple[Path, Any]],
    nets: Nets,
    theirs: ControlReference,
    tiny_reference: Callable[[str], Reference],
    same: Same,
) -> None:
    unet = tiny_reference("sd").pipe.unet
    folder, several = saved("StableDiffusionControlNetPipeline", nets.control(unet), nets.control(unet, 1))
    pipe = sf.load(folder)
    ours = run(pipe, control_image=picture(9), control_image_1=picture(8), controlnet_conditioning_scale_1=0.5, **GIVEN)
    images, scales = [picture(9), picture(8)], [1.0, 0.5]
    same(ours, theirs("text2image", several, control_image=images, controlnet_conditioning_scale=scales, **GIVEN))


def test_an_adapter_in_the_index_is_there_and_bound(
    saved: Callable[..., tuple[Path, Any]], nets: Nets, theirs: ControlReference, same: Same
) -> None:
    folder, net = saved("StableDiffusionAdapterPipeline", nets.adapter(channels=(16, 32), num_res_blocks=1))
    ours = run(sf.load(folder), adapter_image=picture(9), **GIVEN)
    same(ours, theirs("text2image", net, "adapter", control_image=picture(9), **GIVEN))


def test_a_net_that_does_not_fit_is_refused_when_the_folder_is_loaded(
    saved: Callable[..., tuple[Path, Any]], nets: Nets, tiny_reference: Callable[[str], Reference]
) -> None:
    other = nets.control(tiny_reference("sd").pipe.unet, cross_attention_dim=24)
    folder, _ = saved("StableDiffusionControlNetPipeline", other)
    with pytest.raises(sf.SfumatoError, match=r"has token_width 24, but .* has token_width 32"):
        sf.load(folder)
