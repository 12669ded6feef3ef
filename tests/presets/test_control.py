"""Control nets and adapters for Stable Diffusion beside the reference's pipelines: one insert, the same pictures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sfumato import Graph, named
from sfumato.blocks.control.controlnet import ApplyControlNet

from .control import ControlReference, Net, Nets, controlled, with_adapter
from .control import nets as nets
from .support import Reference, half, picture, run

Same = Callable[..., object]
Tiny = Callable[..., Graph]
TASKS = ("text2image", "image2image", "inpaint")
PROMPTS = ["a red apple", "a small cat"]
GIVEN: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 4, "control_image": picture(9)}
OF_TASK: dict[str, dict[str, Any]] = {
    "text2image": {"height": 64, "width": 64},
    "image2image": {"image": picture(1), "strength": 0.75, "height": 64, "width": 64},
    "inpaint": {"image": picture(1), "mask_image": half(), "strength": 1.0, "height": 64, "width": 64},
}


@pytest.fixture(scope="module")
def theirs(diffusers: Any, tiny_reference: Callable[[str], Reference]) -> Callable[..., ControlReference]:
    def make(name: str = "sd") -> ControlReference:
        return ControlReference(diffusers, tiny_reference(name).pipe, "StableDiffusion")

    return make


@pytest.fixture(scope="module")
def net(nets: Nets, tiny_reference: Callable[[str], Reference]) -> Net:
    return nets.control(tiny_reference("sd").pipe.unet)


SHORT = {"num_inference_steps": 2}
CALLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a scale": {"controlnet_conditioning_scale": 0.4},
    "an interval": {"control_guidance_start": 0.25, "control_guidance_end": 0.7},
    "guessing": {"guess_mode": True, "guidance_scale": 4.0},
    "guessing without guidance": {"guess_mode": True, "guidance_scale": 1.0},
    "no guidance": {"guidance_scale": 1.0},
    "two prompts": {"prompt": PROMPTS},
    "a picture for each prompt": {"prompt": PROMPTS, "control_image": [picture(3), picture(4)]},
    "two images of two prompts, a seed each": {
        "prompt": PROMPTS,
        "control_image": [picture(3), picture(4)],
        "num_images_per_prompt": 2,
        "seed": [3, 4, 5, 6],
    },
    "a picture of another size": {**SHORT, "control_image": picture(5, 90, 41)},
    "a grey picture": {**SHORT, "control_image": picture(5).convert("L")},
    "an array": {**SHORT, "control_image": np.asarray(picture(5), dtype=np.float32)[None] / 255},
    "a tensor": {"control_image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))},
    "a tensor that marks what to paint by -1": {
        "control_image": torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)).sub(0.5).mul(2)
    },
}
FEW = ("an interval", "guessing", "a picture for each prompt")


@pytest.mark.parametrize(
    ("task", "what"), [("text2image", w) for w in CALLS] + [(t, w) for t in TASKS[1:] for w in FEW]
)
def test_a_control_net_gives_the_pictures_of_the_reference(
    tiny: Tiny, theirs: Callable[..., ControlReference], net: Net, same: Same, what: str, task: str
) -> None:
    """With a scheduler that draws at every step, so that the order of draws is compared too."""
    scheduler = "EulerAncestralDiscreteScheduler"
    given: dict[str, Any] = {**GIVEN, **OF_TASK[task], "seed": 3, "controlnet_conditioning_scale": 1.0, **CALLS[what]}
    ours = run(controlled(tiny("sd", task)), controlnet=net.ours, scheduler=scheduler, **given)
    same(ours, theirs()(task, net.theirs, scheduler=scheduler, **given))


def test_a_control_net_changes_the_picture(tiny: Tiny, net: Net) -> None:
    """So that the tests above could fail."""
    pipe, given = tiny("sd"), {**GIVEN, "seed": 3}
    with_it = run(controlled(pipe), controlnet=net.ours, **given)
    given.pop("control_image")
    assert (with_it.latents - run(pipe, **given).latents).abs().max() > 0.1


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sd2": ("sd2", {}),
    "bgr": ("sd", {"controlnet_conditioning_channel_order": "bgr"}),
    "shuffle": ("sd", {"global_pool_conditions": True}),
    "a U-Net trained to inpaint": ("sd-inpainting", {}),
}


@pytest.mark.parametrize("what", KINDS)
def test_other_control_nets(
    tiny: Tiny,
    tiny_reference: Callable[[str], Reference],
    theirs: Callable[..., ControlReference],
    nets: Nets,
    same: Same,
    what: str,
) -> None:
    name, config = KINDS[what]
    net = nets.control(tiny_reference(name).pipe.unet, **config)
    task = "inpaint" if name == "sd-inpainting" else "text2image"
    given: dict[str, Any] = {**GIVEN, **OF_TASK[task], "seed": 3, "controlnet_conditioning_scale": 0.8}
    same(run(controlled(tiny(name, task)), controlnet=net.ours, **given), theirs(name)(task, net.theirs, **given))


POSE = {
    "control_image": "pose_image",
    "controlnet": "pose_net",
    "controlnet_conditioning_scale": "pose_scale",
    "control_guidance_start": "pose_start",
    "control_guidance_end": "pose_end",
}


@pytest.mark.parametrize("task", TASKS)
def test_two_control_nets(
    diffusers: Any,
    tiny: Tiny,
    tiny_reference: Callable[[str], Reference],
    theirs: Callable[..., ControlReference],
    nets: Nets,
    net: Net,
    same: Same,
    task: str,
) -> None:
    other = nets.control(tiny_reference("sd").pipe.unet, seed=1)
    pipe = controlled(controlled(tiny("sd", task)), named(ApplyControlNet(), **POSE), "pose")
    given: dict[str, Any] = {**GIVEN, **OF_TASK[task], "seed": 3, "guess_mode": True, "guidance_scale": 3.0}
    ours = run(
        pipe,
        controlnet=net.ours,
        pose_net=other.ours,
        pose_image=picture(8),
        pose_scale=0.6,
        pose_start=0.5,
        controlnet_conditioning_scale=0.9,
        control_guidance_end=0.8,
        **given,
    )
    several = diffusers.MultiControlNetModel([net.theirs, other.theirs])
    given |= {
        "control_image": [picture(9), picture(8)],
        "controlnet_conditioning_scale": [0.9, 0.6],
        "control_guidance_start": [0.0, 0.5],
        "control_guidance_end": [0.8, 1.0],
    }
    same(ours, theirs()(task, several, **given))


# ------------------------------------------------------------------------------------------------------------ adapters
ADAPTER: dict[str, Any] = {"channels": (16, 32), "num_res_blocks": 1, "downscale_factor": 8}
ADAPTERS: dict[str, dict[str, Any]] = {
    "full": {},
    "grey": {"in_channels": 1},
}
ADAPTED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a scale": {"adapter_conditioning_scale": 0.4},
    "two images of a prompt": {"num_images_per_prompt": 2},
    "a picture for each prompt": {"prompt": PROMPTS, "control_image": [picture(3), picture(4)]},
    "no guidance": {"guidance_scale": 1.0},
}


@pytest.mark.parametrize("what", ADAPTED)
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_gives_the_pictures_of_the_reference(
    tiny: Tiny, theirs: Callable[..., ControlReference], nets: Nets, same: Same, kind: str, what: str
) -> None:
    net = nets.adapter(**{**ADAPTER, **ADAPTERS[kind]})
    given: dict[str, Any] = {**GIVEN, **OF_TASK["text2image"], "seed": 3, **ADAPTED[what]}
    image = given.pop("control_image")
    images = [one.convert("L" if kind == "grey" else "RGB") for one in (image if isinstance(image, list) else [image])]
    ours = run(with_adapter(tiny("sd")), adapter=net.ours, adapter_image=images, **given)
    same(ours, theirs()("text2image", net.theirs, "adapter", control_image=images, **given))
