"""Runs in parts, and the refiner: alone, after the base, and with it in one graph; beside the reference."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sfumato import Graph

from .sdxl import ReferenceXL
from .support import counted, half, picture, run

Same = Callable[..., object]
XL = Callable[..., Graph]
XLReference = Callable[..., ReferenceXL]
SCHEDULERS = ("EulerDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "LCMScheduler")
STEPS = 10
PROMPTS = ["a red apple", "a small cat"]


# -------------------------------------------------------------------------------------------------------- runs in parts
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("end", [0.8, 0.35])
def test_a_run_that_ends_early(xl: XL, xl_reference: XLReference, same: Same, end: float, scheduler: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "denoising_end": end}
    same(run(xl(), scheduler=scheduler, seed=1, **given), xl_reference()("text2image", scheduler, 1, **given))


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("start", "end"), [(0.5, 1.0), (0.2, 0.7)])
def test_a_run_that_goes_on(
    xl: XL, xl_reference: XLReference, same: Same, start: float, end: float, scheduler: str
) -> None:
    latents = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": STEPS, "denoising_start": start}
    given |= {"denoising_end": end} if end < 1 else {}
    ours = run(xl("base", "image2image"), scheduler=scheduler, seed=1, image_latents=latents, **given)
    same(ours, xl_reference()("image2image", scheduler, 1, image=latents, **given))


def test_a_picture_is_taken_as_it_is_where_a_run_goes_on(xl: XL, xl_reference: XLReference, same: Same) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "image": picture(), "denoising_start": 0.6, "num_inference_steps": 5}
    same(run(xl("base", "image2image"), seed=1, **given), xl_reference()("image2image", "", 1, **given))


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "heun", "euler_a", "ddim"])
def test_two_parts_of_a_run_are_the_whole(xl: XL, scheduler: str) -> None:
    """With solvers that remember or draw, only the steps are compared: the second part warms up and seeds anew.

    The reference's base ends in the middle of one of Heun's steps, and its refiner takes that for its beginning.
    """
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "scheduler": scheduler}
    pipe, rest = xl(), xl("base", "image2image")
    with counted(pipe) as did:
        whole = run(pipe, seed=1, **given)
        steps = did.unet
        first = run(pipe, seed=1, denoising_end=0.6, **given)
        last = run(rest, seed=1, image_latents=first.latents, denoising_start=0.6, **given)
        assert did.unet == 2 * steps
    if scheduler in ("ddim", "heun"):
        assert (last.latents - whole.latents).abs().max() < 1e-5


def test_inpainting_goes_on_from_what_was_left_noisy(xl: XL) -> None:
    """The reference takes the noisy latents for the clean image, and puts noise where the mask keeps."""
    pipe = xl("base", "inpaint")
    given: dict[str, Any] = {
        "prompt": "a fish", "image": picture(), "mask_image": half(), "num_inference_steps": STEPS, "strength": 1.0,
        "scheduler": "ddim",
    }  # fmt: skip
    whole = run(pipe, seed=1, **given)
    first = run(pipe, seed=1, denoising_end=0.5, **given)
    last = run(pipe, seed=1, denoising_start=0.5, halfway=first.latents, **given)
    assert (last.latents - whole.latents).abs().max() < 1e-4


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"denoising_end": 0.01}, r"denoising_end=0.01 leaves none of the 10 steps"),
    ({"denoising_end": 1.5}, r"denoising_end  takes float \(input should be less than or equal to 1\), got 1.5"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG)
def test_a_part_that_is_none_is_refused(xl: XL, wrong: dict[str, Any], told: str) -> None:
    pipe = xl()
    with counted(pipe) as did, pytest.raises((ValueError, TypeError), match=told):
        pipe(prompt="a fish", num_inference_steps=STEPS, **wrong)
    assert did.unet == 0


def test_a_part_that_ends_before_it_begins_is_refused(xl: XL) -> None:
    latents = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"denoising_end=0.3 leaves none of the 5 steps"):
        xl("base", "image2image")(
            prompt="a", image_latents=latents, denoising_start=0.5, denoising_end=0.3, num_inference_steps=STEPS
        )


def test_latents_given_as_a_picture_are_told_their_name(xl: XL) -> None:
    """In the reference they go by the same name."""
    with pytest.raises(ValueError, match=r"Latents are no picture: pass them as image_latents"):
        xl("base", "image2image")(prompt="a", image=torch.randn(1, 4, 8, 8), denoising_start=0.5)


# --------------------------------------------------------------------------------------------------------- the refiner
REFINING: dict[str, dict[str, Any]] = {
    "as it is": {},
    "two images": {"num_images_per_prompt": 2},
    "two prompts": {"prompt": PROMPTS, "negative_prompt": ["blue", ""]},
    "scores": {"aesthetic_score": 7.5, "negative_aesthetic_score": 1.0},
    "sizes": {"original_size": (96, 80), "crops_coords_top_left": (8, 4), "negative_crops_coords_top_left": (1, 2)},
    "negative sizes": {"negative_original_size": (32, 48)},
    "clip_skip": {"clip_skip": 1},
    "strength": {"strength": 0.8},
}


@pytest.mark.parametrize("what", REFINING)
def test_the_refiner_alone(xl: XL, xl_reference: XLReference, same: Same, what: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "image": picture(), "num_inference_steps": STEPS, **REFINING[what]}
    pipe = xl("refiner", "image2image")
    assert "text_encoder" not in pipe.components
    same(run(pipe, seed=5, **given), xl_reference("refiner")("image2image", "", 5, **given))


def test_the_refiner_hears_prompt_2_and_takes_the_positive_crop(xl: XL, xl_reference: XLReference, same: Same) -> None:
    """The reference passes prompt_2 over, and takes a crop at 0 for the negative prompt."""
    pipe, theirs = xl("refiner", "image2image"), xl_reference("refiner")
    given: dict[str, Any] = {"image": picture(), "num_inference_steps": STEPS}
    ours = run(pipe, seed=5, prompt="a fish", prompt_2="a bird", **given)
    same(ours, theirs("image2image", "", 5, prompt="a bird", **given))
    crop: dict[str, Any] = {"prompt": "a fish", "crops_coords_top_left": (8, 4), **given}
    ours = run(pipe, seed=5, **crop)
    same(ours, theirs("image2image", "", 5, negative_crops_coords_top_left=(8, 4), **crop))
    assert (ours.latents - theirs("image2image", "", 5, **crop).latents).abs().max() > 1e-4


def both(xl: XL, **swaps: Any) -> Graph:
    """The base's checkpoint with the refiner's U-Net, as one graph."""
    return xl("base", "refined", refiner=xl("refiner", "image2image").bindings["unet"], **swaps)


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "EulerAncestralDiscreteScheduler"])
def test_base_and_refiner_as_one_graph(xl: XL, xl_reference: XLReference, same: Same, scheduler: str) -> None:
    """The tiny refiner's second tower is the base's: both were seeded alike."""
    given: dict[str, Any] = {"prompt": PROMPTS, "negative_prompt": "blue", "num_inference_steps": STEPS}
    generator = torch.Generator("cpu").manual_seed(3)
    base = xl_reference()("text2image", scheduler, generator, denoising_end=0.7, **given)
    reference = xl_reference("refiner")
    reference.pipe.text_encoder_2 = xl_reference().pipe.text_encoder_2
    theirs = reference("image2image", scheduler, generator, image=base.latents, denoising_start=0.7, **given)
    pipe = both(xl)
    with counted(pipe) as did:
        ours = run(pipe, scheduler=scheduler, seed=3, denoising_end=0.7, **given)
    assert did.decode == 1
    same(ours, theirs)


@pytest.mark.parametrize(("scheduler", "stop"), [("dpmpp_2m", 2), ("euler_a", 5), ("dpmpp_2m_sde", 6), ("heun", 9)])
def test_base_and_refiner_in_two_parts_are_the_whole(xl: XL, scheduler: str, stop: int) -> None:
    """Stopped in the base, between the two, and in the refiner, with solvers that remember and draw."""
    pipe = both(xl)
    given: dict[str, Any] = {
        "prompt": "a fish", "num_inference_steps": STEPS, "scheduler": scheduler, "denoising_end": 0.5,
    }  # fmt: skip
    whole = pipe(**given, seed=1)
    half = pipe.only("halfway")(**given, seed=1, stop_step=stop).halfway
    rest = pipe(**given, halfway=half)
    assert rest.images[0].tobytes() == whole.images[0].tobytes()
    with pytest.raises(ValueError, match="are of step"):
        pipe(**given, halfway=half, start_step=1)
