"""Stable Diffusion XL beside the reference: same numbers from the same files.

Tolerances are of float32 arithmetic, as for Stable Diffusion: latents within 1e-4, pixels within 0.05 of a step of 255.
"""

from collections.abc import Callable
from typing import Any

import pytest

from sfumato import Graph

from .sdxl import ReferenceXL
from .support import picture, run

Same = Callable[..., object]
XL = Callable[..., Graph]
XLReference = Callable[..., ReferenceXL]

SCHEDULERS = (
    "EulerDiscreteScheduler",
    "DDIMScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "LCMScheduler",
)
STEPS = 4
PROMPTS = ["a red apple", "a small cat"]
IMAGE: dict[str, Any] = {"image": picture(), "strength": 0.75}
TASKS: dict[str, dict[str, Any]] = {"text2image": {}, "image2image": IMAGE}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("task", TASKS)
def test_the_pictures_of_the_reference(
    xl: XL, xl_reference: XLReference, same: Same, task: str, scheduler: str
) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": STEPS, **TASKS[task]}
    same(run(xl("base", task), scheduler=scheduler, seed=1, **given), xl_reference()(task, scheduler, 1, **given))


MANY: dict[str, dict[str, Any]] = {
    "two images of a prompt": {"num_images_per_prompt": 2},
    "two images of two prompts": {"prompt": PROMPTS, "num_images_per_prompt": 2},
    "a seed for each": {"prompt": PROMPTS, "seed": [3, 4]},
    "prompt_2": {"prompt_2": "a blue bird"},
    "prompt_2 for each": {"prompt": PROMPTS, "prompt_2": ["a dog", "a blue bird"]},
    "a negative prompt": {"negative_prompt": "blue"},
    "an empty negative prompt": {"negative_prompt": ""},
    "two negative prompts": {"negative_prompt": "blue", "negative_prompt_2": "a dog"},
    "negative prompts for each": {"prompt": PROMPTS, "negative_prompt": ["blue", ""]},
    "clip_skip": {"clip_skip": 1},
    "guidance 1": {"guidance_scale": 1.0},
    "guidance 0": {"guidance_scale": 0.0},
    "guidance_rescale": {"guidance_scale": 6.0, "guidance_rescale": 0.7},
    "sizes and crops": {"original_size": (96, 80), "crops_coords_top_left": (8, 4), "target_size": (72, 64)},
    "negative sizes": {
        "original_size": (96, 80),
        "negative_original_size": (32, 32),
        "negative_target_size": (40, 24),
    },
}


@pytest.mark.parametrize("what", MANY)
@pytest.mark.parametrize("task", TASKS)
def test_what_a_call_may_say(xl: XL, xl_reference: XLReference, same: Same, task: str, what: str) -> None:
    """With a scheduler that draws at every step, so that the order of draws is compared too."""
    scheduler = "EulerAncestralDiscreteScheduler"
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "seed": 7, **TASKS[task], **MANY[what]}
    same(run(xl("base", task), scheduler=scheduler, **given), xl_reference()(task, scheduler, **given))
