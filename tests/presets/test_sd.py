"""Stable Diffusion, text to image and image to image, beside the reference: same numbers from the same files.

Tolerances are of float32 arithmetic: latents within 1e-4 (they reach about 5), pixels within 0.05 of a step of 255.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sfumato import Graph

from .support import SCHEDULERS, Reference, Result, apart, picture, run

Same = Callable[..., object]
LONG = 4  # steps that a test takes

TINY = ("sd", "sd2")
PROMPTS = ["a red apple", "a small cat"]


# --------------------------------------------------------------------------------------------------- the embedded model
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("task", ["text2image", "image2image"])
def test_the_real_model_gives_the_pictures_of_the_reference(
    emoji: Graph, emoji_reference: Reference, same: Same, task: str, scheduler: str
) -> None:
    image = {"image": picture(), "strength": 0.7} if task == "image2image" else {}
    given: dict[str, Any] = {"prompt": "a red apple", "guidance_scale": 4.0, "num_inference_steps": 8, **image}
    ours = run(emoji.task(task), seed=7, scheduler=scheduler, **given)
    same(ours, emoji_reference(task, scheduler, 7, **given))


MANY: dict[str, dict[str, Any]] = {
    "two images of a prompt": {"prompt": "a fish", "num_images_per_prompt": 2},
    "two prompts": {"prompt": PROMPTS},
    "two images of two prompts": {"prompt": PROMPTS, "num_images_per_prompt": 2},
    "a seed for each": {"prompt": PROMPTS, "seed": [3, 4]},
    "a seed for each of four": {"prompt": PROMPTS, "num_images_per_prompt": 2, "seed": [3, 4, 5, 6]},
    "a negative prompt": {"prompt": "a fish", "negative_prompt": "blue"},
    "a negative prompt for each": {"prompt": PROMPTS, "negative_prompt": ["blue", "a dog"]},
    "clip_skip": {"prompt": "a fish", "clip_skip": 1},
    "guidance 1": {"prompt": "a fish", "guidance_scale": 1.0},
    "an empty prompt": {"prompt": ""},
}


@pytest.mark.parametrize("task", ["text2image", "image2image"])
@pytest.mark.parametrize("what", MANY)
def test_the_real_model_with_what_a_call_may_say(
    emoji: Graph, emoji_reference: Reference, same: Same, task: str, what: str
) -> None:
    """With a scheduler that draws at every step, so that the order of draws is compared too."""
    scheduler = "EulerAncestralDiscreteScheduler"
    given: dict[str, Any] = {"num_inference_steps": LONG, "guidance_scale": 4.0, "seed": 7, **MANY[what]}
    if task == "image2image":
        given |= {"image": picture(), "strength": 0.75}
    same(run(emoji.task(task), scheduler=scheduler, **given), emoji_reference(task, scheduler, **given))


def test_an_image_for_each_prompt(emoji: Graph, emoji_reference: Reference, same: Same) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS, "image": [picture(1), picture(2)], "num_inference_steps": LONG}
    ours = run(emoji.task("image2image"), seed=5, guidance_scale=4.0, **given)
    same(ours, emoji_reference("image2image", seed=5, guidance_scale=4.0, **given))


def test_several_images_of_each_prompt_come_from_that_prompts_image(emoji: Graph) -> None:
    """The reference mixes them up: it repeats the images as a b a b, but the prompts as a a b b."""
    pipe = emoji.task("image2image")
    given: dict[str, Any] = {"num_inference_steps": LONG, "strength": 0.5}
    pair = {"prompt": PROMPTS, "image": [picture(1), picture(2)], "num_images_per_prompt": 2}
    many = run(pipe, seed=[1, 2, 3, 4], **pair, **given)
    for row in range(4):
        alone = run(pipe, prompt=PROMPTS[row // 2], image=picture(1 + row // 2), seed=row + 1, **given)
        assert (many.latents[row] - alone.latents[0]).abs().max() < 1e-4


def test_guidance_rescale(emoji: Graph, emoji_reference: Reference, same: Same) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "guidance_rescale": 0.7, "guidance_scale": 6.0}
    same(
        run(emoji, seed=1, num_inference_steps=LONG, **given),
        emoji_reference(seed=1, num_inference_steps=LONG, **given),
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_given_latents_are_the_noise_that_a_picture_comes_from(
    emoji: Graph, emoji_reference: Reference, same: Same, scheduler: str
) -> None:
    noise = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(9))
    given: dict[str, Any] = {"prompt": "a fish", "latents": noise, "guidance_scale": 4.0, "num_inference_steps": LONG}
    same(run(emoji, seed=3, scheduler=scheduler, **given), emoji_reference("text2image", scheduler, 3, **given))


CUSTOM: list[tuple[str, dict[str, list[float]]]] = [
    ("EulerDiscreteScheduler", {"timesteps": [901, 601, 301, 51]}),
    ("EulerDiscreteScheduler", {"sigmas": [12.0, 6.0, 2.0, 0.5, 0.0]}),
    ("DDPMScheduler", {"timesteps": [901, 601, 301, 51]}),
]


@pytest.mark.parametrize(("scheduler", "custom"), CUSTOM)
@pytest.mark.parametrize("task", ["text2image", "image2image"])
def test_custom_noise_levels(
    emoji: Graph,
    emoji_reference: Reference,
    same: Same,
    task: str,
    scheduler: str,
    custom: dict[str, list[float]],
) -> None:
    image = {"image": picture(), "strength": 0.5} if task == "image2image" else {}
    given: dict[str, Any] = {"prompt": "a fish", "guidance_scale": 4.0, **image, **custom}
    same(run(emoji.task(task), seed=3, scheduler=scheduler, **given), emoji_reference(task, scheduler, 3, **given))


@pytest.mark.parametrize("seed", [4, [4, 5]])
def test_ddim_with_eta_draws_as_the_reference_does(
    emoji: Graph, emoji_reference: Reference, same: Same, seed: int | list[int]
) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS, "guidance_scale": 4.0, "num_inference_steps": LONG}
    ours = run(emoji, seed=seed, scheduler={"eta": 0.8}, **given)
    same(ours, emoji_reference(seed=seed, eta=0.8, **given))


# ----------------------------------------------------------------------------------------------------- tiny checkpoints
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("task", ["text2image", "image2image"])
@pytest.mark.parametrize("name", TINY)
def test_other_checkpoints_give_the_pictures_of_the_reference(
    tiny: Callable[..., Graph],
    tiny_reference: Callable[[str], Reference],
    same: Same,
    name: str,
    task: str,
    scheduler: str,
) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": LONG}
    if task == "image2image":
        given |= {"image": picture(), "strength": 0.75}
    same(run(tiny(name, task), scheduler=scheduler, seed=1, **given), tiny_reference(name)(task, scheduler, 1, **given))


@pytest.mark.parametrize(("height", "width"), [(72, 64), (64, 104), (40, 72), (8, 8)])
@pytest.mark.parametrize("name", ["sd", "emoji"])
def test_odd_sizes(
    request: pytest.FixtureRequest,
    tiny: Callable[..., Graph],
    tiny_reference: Callable[[str], Reference],
    same: Same,
    name: str,
    height: int,
    width: int,
) -> None:
    """Sizes of latents that the U-Net cannot halve: 9, 13, 5, 1."""
    pipe: Graph = request.getfixturevalue("emoji") if name == "emoji" else tiny(name)
    theirs: Reference = request.getfixturevalue("emoji_reference") if name == "emoji" else tiny_reference(name)
    given: dict[str, Any] = {"prompt": "a fish", "height": height, "width": width, "num_inference_steps": LONG}
    given |= {"guidance_scale": 4.0}
    same(run(pipe, seed=2, **given), theirs(seed=2, **given))


@pytest.mark.parametrize(("rows", "columns"), [(72, 64), (50, 101)])
def test_an_image_of_an_odd_size_is_rounded_down(
    emoji: Graph, emoji_reference: Reference, same: Same, rows: int, columns: int
) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "image": picture(3, rows, columns), "num_inference_steps": LONG}
    given |= {"guidance_scale": 4.0}
    ours = run(emoji.task("image2image"), seed=2, **given)
    assert ours.images.shape[1:3] == (rows // 8 * 8, columns // 8 * 8)
    same(ours, emoji_reference("image2image", seed=2, **given))


# ----------------------------------------------------------------------------------------- what the comparison is worth
def test_another_seed_is_another_picture(emoji: Graph) -> None:
    """So that the tests above could fail."""
    one, two = (run(emoji, prompt="a fish", seed=seed, num_inference_steps=LONG) for seed in (1, 2))
    far = apart(Result(*one), Result(*two))
    assert far.latents > 0.5
    assert far.pixels > 20


def test_the_same_seed_is_the_same_picture_bit_for_bit(emoji: Graph) -> None:
    one, two = (run(emoji, prompt="a fish", seed=1, num_inference_steps=LONG, scheduler="euler_a") for _ in range(2))
    assert torch.equal(one.latents, two.latents)


def test_no_seed_is_a_fresh_picture_each_time(emoji: Graph) -> None:
    one, two = (run(emoji, prompt="a fish", num_inference_steps=1) for _ in range(2))
    assert not torch.equal(one.latents, two.latents)
