"""Control nets, unions and adapters for SDXL beside the reference's pipelines."""

from collections.abc import Callable
from typing import Any

import pytest

from sfumato import Graph, WireError

from .control import ControlReference, Net, Nets, controlled, rows_of, with_adapter, with_union
from .control import nets as nets
from .sdxl import ReferenceXL
from .support import Reference, half, picture, run

Same = Callable[..., object]
XL = Callable[..., Graph]
TASKS = ("text2image", "image2image", "inpaint")
PROMPTS = ["a red apple", "a small cat"]
SCHEDULER = "EulerAncestralDiscreteScheduler"
GIVEN: dict[str, Any] = {
    "prompt": "a red apple",
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "seed": 3,
    "height": 64,
    "width": 64,
    "control_image": picture(9),
    "controlnet_conditioning_scale": 1.0,
}
OF_TASK: dict[str, dict[str, Any]] = {
    "text2image": {},
    "image2image": {"image": picture(1), "strength": 0.75},
    "inpaint": {"image": picture(1), "mask_image": half(), "strength": 0.9999},
}


@pytest.fixture(scope="module")
def unet(xl_reference: Callable[..., ReferenceXL]) -> Any:
    return xl_reference().pipe.unet


@pytest.fixture(scope="module")
def theirs(diffusers: Any, xl_reference: Callable[..., ReferenceXL]) -> Callable[..., ControlReference]:
    def make(name: str = "base") -> ControlReference:
        return ControlReference(diffusers, xl_reference(name).pipe, "StableDiffusionXL")

    return make


@pytest.fixture(scope="module")
def net(nets: Nets, unet: Any) -> Net:
    return nets.control(unet)


@pytest.fixture(scope="module")
def union(nets: Nets, unet: Any) -> Net:
    return nets.union(unet)


CALLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "guessing in an interval, with a scale": {
        "guess_mode": True,
        "control_guidance_start": 0.25,
        "control_guidance_end": 0.9,
        "controlnet_conditioning_scale": 0.6,
    },
    "no guidance": {"guidance_scale": 1.0},
    "a picture for each prompt": {"prompt": PROMPTS, "control_image": [picture(3), picture(4)]},
    "sizes of one's own": {"original_size": (90, 70), "target_size": (80, 64), "crops_coords_top_left": (4, 2)},
}


ASKED = [("text2image", what) for what in CALLS] + [
    (task, what)
    for task in TASKS[1:]
    for what in ("guessing in an interval, with a scale", "a picture for each prompt")
]


@pytest.mark.parametrize(("task", "what"), ASKED)
def test_a_control_net_gives_the_pictures_of_the_reference(
    xl: XL, theirs: Callable[..., ControlReference], net: Net, same: Same, what: str, task: str
) -> None:
    given = {**GIVEN, **OF_TASK[task], **CALLS[what]}
    ours = run(controlled(xl(task=task)), controlnet=net.ours, scheduler=SCHEDULER, **given)
    same(ours, theirs()(task, net.theirs, scheduler=SCHEDULER, **given))


def test_a_unet_trained_to_inpaint_takes_a_control_net(
    xl: XL,
    theirs: Callable[..., ControlReference],
    xl_reference: Callable[..., ReferenceXL],
    nets: Nets,
    same: Same,
) -> None:
    net = nets.control(xl_reference("inpainting").pipe.unet)
    given = {**GIVEN, **OF_TASK["inpaint"]}
    ours = run(controlled(xl("inpainting", "inpaint")), controlnet=net.ours, **given)
    same(ours, theirs("inpainting")("inpaint", net.theirs, **given))


# --------------------------------------------------------------------------------------------------------------- union
KINDS: dict[str, dict[str, Any]] = {
    "one kind": {"control_mode": 3},
    "one kind with a scale, in an interval": {
        "control_mode": 1,
        "controlnet_conditioning_scale": 0.6,
        "control_guidance_start": 0.3,
    },
    "two kinds": {"control_mode": [3, 5], "control_image": [picture(9), picture(8)]},
    "two kinds, a scale each": {
        "control_mode": [0, 1],
        "control_image": [picture(9), picture(8)],
        "controlnet_conditioning_scale": [0.3, 0.8],
    },
    "guessing without guidance, for with it the reference crashes": {
        "control_mode": [3, 5],
        "control_image": [picture(9), picture(8)],
        "guess_mode": True,
        "guidance_scale": 1.0,
    },
}


@pytest.mark.parametrize(
    ("task", "what"),
    [("text2image", what) for what in KINDS] + [(task, "two kinds, a scale each") for task in TASKS[1:]],
)
def test_a_union_gives_the_pictures_of_the_reference(
    xl: XL, theirs: Callable[..., ControlReference], union: Net, same: Same, what: str, task: str
) -> None:
    given = {**GIVEN, **OF_TASK[task], **KINDS[what]}
    ours = run(with_union(xl(task=task)), controlnet=union.ours, scheduler=SCHEDULER, **given)
    same(ours, theirs()(task, union.theirs, "union", scheduler=SCHEDULER, **given))


def test_pictures_beside_each_other_do_not_change_each_other(xl: XL, union: Net) -> None:
    """They do in the reference, whose union mixes the rows of a batch."""
    pipe = with_union(xl())
    given = {**GIVEN, "control_mode": [1, 2], "prompt": PROMPTS, "seed": [1, 2]}
    given["control_image"] = [[picture(1), picture(2)], [picture(3), picture(4)]]
    both = run(pipe, controlnet=union.ours, **given)
    for row in range(2):
        mine: dict[str, Any] = {"prompt": PROMPTS[row], "seed": [row + 1]}
        images = [kind[row] for kind in given["control_image"]]
        alone = run(pipe, controlnet=union.ours, **{**given, **mine, "control_image": images})
        assert (both.latents[row] - alone.latents[0]).abs().max() < 1e-4


def test_a_union_guesses_with_guidance_too(xl: XL, union: Net) -> None:
    pipe, given = with_union(xl()), {**GIVEN, "control_mode": 1, "guess_mode": True}
    with rows_of(union.ours) as (rows,):
        guessed = run(pipe, controlnet=union.ours, **given)
    assert rows == [1] * 4
    steered = run(pipe, controlnet=union.ours, **{**given, "guess_mode": False})
    assert (guessed.latents - steered.latents).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------------ adapters
ADAPTED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "for half of the steps": {"adapter_conditioning_factor": 0.5, "adapter_conditioning_scale": 0.7},
}


@pytest.mark.parametrize("what", ADAPTED)
def test_an_adapter_gives_the_pictures_of_the_reference(
    xl: XL, theirs: Callable[..., ControlReference], nets: Nets, same: Same, what: str
) -> None:
    config: dict[str, Any] = {"channels": (16, 32), "num_res_blocks": 1, "downscale_factor": 16}
    net = nets.adapter(adapter_type="full_adapter_xl", **config)
    given = {**GIVEN, **ADAPTED[what]}
    image = given.pop("control_image")
    given.pop("controlnet_conditioning_scale")
    ours = run(with_adapter(xl()), adapter=net.ours, adapter_image=image, **given)
    same(ours, theirs()("text2image", net.theirs, "adapter", control_image=image, **given))


# ------------------------------------------------------------------------------------------------------------- refused
def test_a_control_net_of_sd_is_refused_by_sdxl(xl: XL, nets: Nets, tiny_reference: Callable[[str], Reference]) -> None:
    net = nets.control(tiny_reference("sd").pipe.unet)
    with pytest.raises(WireError, match=r"has addition_embed_type None.*token_width 32, but .*token_width 80"):
        controlled(xl()).bind(controlnet=net.ours)
