"""SDXL's inpainting beside the reference, with a U-Net of 4 channels and one of 9; and painting a cut-out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato import Graph

from .sdxl import ReferenceXL
from .support import Reference, half, picture, run

Same = Callable[..., object]
XL = Callable[..., Graph]
XLReference = Callable[..., ReferenceXL]
PROMPTS = ["a red apple", "a small cat"]
GIVEN: dict[str, Any] = {"prompt": "a red apple", "image": picture(), "mask_image": half(), "num_inference_steps": 5}


@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("strength", [{}, {"strength": 1.0}, {"strength": 0.6}], ids=["default", "1", "0.6"])
@pytest.mark.parametrize("name", ["base", "inpainting"])
def test_the_pictures_of_the_reference(
    xl: XL, xl_reference: XLReference, same: Same, name: str, strength: dict[str, Any], scheduler: str
) -> None:
    given: dict[str, Any] = {**GIVEN, **strength, "seed": 3}
    ours = run(xl(name, "inpaint"), scheduler=scheduler, **given)
    same(ours, xl_reference(name)("inpaint", scheduler, **given))


MANY: dict[str, dict[str, Any]] = {
    "two images of a prompt": {"num_images_per_prompt": 2},
    "an image and a mask for each prompt": {
        "prompt": PROMPTS,
        "image": [picture(1), picture(2)],
        "mask_image": [half(), half().rotate(90)],
    },
    "a mask in colour": {"mask_image": picture(4, 90, 70)},
    "an image of another size": {"image": picture(5, 80, 120)},
    "a size of one's own": {"height": 72, "width": 56},
    "no guidance": {"guidance_scale": 1.0},
    "sizes": {"original_size": (96, 80), "target_size": (72, 64), "negative_original_size": (32, 32)},
    "prompt_2 and a negative prompt": {"prompt_2": "a bird", "negative_prompt": "blue"},
}


@pytest.mark.parametrize("name", ["base", "inpainting"])
@pytest.mark.parametrize("what", MANY)
def test_what_a_call_may_say(xl: XL, xl_reference: XLReference, same: Same, what: str, name: str) -> None:
    scheduler = "EulerAncestralDiscreteScheduler"
    given: dict[str, Any] = {**GIVEN, "seed": 3, **MANY[what]}
    ours = run(xl(name, "inpaint"), scheduler=scheduler, **given)
    same(ours, xl_reference(name)("inpaint", scheduler, **given))


# ---------------------------------------------------------------------------------------------------- a cut-out painted
def spot(rows: int, columns: int, box: tuple[int, int, int, int], soft: bool = False) -> Image.Image:
    """A mask that is white in a box (left, upper, right, lower)."""
    pixels = np.zeros((rows, columns), np.uint8)
    left, upper, right, lower = box
    pixels[upper:lower, left:right] = np.linspace(60, 255, right - left) if soft else 255
    return Image.fromarray(pixels)


CROPS: dict[str, dict[str, Any]] = {
    "in the middle": {"mask_image": spot(128, 160, (60, 50, 80, 90)), "padding_mask_crop": 8},
    "wide": {"mask_image": spot(128, 160, (20, 60, 140, 70)), "padding_mask_crop": 4},
    "at the edge": {"mask_image": spot(128, 160, (0, 100, 30, 128)), "padding_mask_crop": 0},
    "wider than there is room": {"mask_image": spot(128, 160, (2, 5, 155, 20)), "padding_mask_crop": 3, "height": 96},
    "soft": {"mask_image": spot(128, 160, (60, 50, 80, 90), soft=True), "padding_mask_crop": 16},
    "in another size": {"mask_image": spot(128, 160, (60, 50, 90, 90)), "padding_mask_crop": 8, "width": 104},
}


@pytest.mark.parametrize("what", CROPS)
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_cut_out_is_painted_and_put_back_as_in_the_reference(
    request: pytest.FixtureRequest, xl: XL, xl_reference: XLReference, family: str, what: str
) -> None:
    """Within 1 of 255: the reference blends in steps of 255 twice."""
    pipe: Graph = xl("base", "inpaint") if family == "sdxl" else request.getfixturevalue("tiny")("sd", "inpaint")
    theirs: Reference = xl_reference() if family == "sdxl" else request.getfixturevalue("tiny_reference")("sd")
    given: dict[str, Any] = {**GIVEN, "image": picture(3, 128, 160), "seed": 3, "strength": 0.8, **CROPS[what]}
    expected = theirs("inpaint", output_type="pil", **given).images[0]
    image = pipe(**given).images[0]
    assert image.size == (160, 128)
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1
