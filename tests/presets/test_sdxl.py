"""Stable Diffusion XL beside the reference: same numbers from the same files.

Tolerances are of float32 arithmetic, as for Stable Diffusion: latents within 1e-4, pixels within 0.05 of a step of 255.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.blocks.guiders.cfg import ClassifierFreeGuidance

from .sdxl import ReferenceXL
from .support import counted, picture, run

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


@pytest.mark.parametrize(("height", "width"), [(72, 64), (40, 104), (8, 8)])
def test_odd_sizes(xl: XL, xl_reference: XLReference, same: Same, height: int, width: int) -> None:
    """Sizes of latents that the U-Net cannot halve: 9, 5, 13, 1; the U-Net is told of them too."""
    given: dict[str, Any] = {"prompt": "a fish", "height": height, "width": width, "num_inference_steps": STEPS}
    same(run(xl(), seed=2, **given), xl_reference()(seed=2, **given))


def test_no_negative_prompt_is_encoded_where_the_index_says_so(xl: XL, xl_reference: XLReference, same: Same) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS}
    pipe = xl("zeros off")
    same(run(pipe, seed=2, **given), xl_reference("zeros off")(seed=2, **given))
    same(run(pipe, seed=2, **given), run(pipe, seed=2, negative_prompt="", **given))
    assert (run(pipe, seed=2, **given).latents - run(xl(), seed=2, **given).latents).abs().max() > 1e-3
    sister = pipe.task("image2image")
    assert sister["match"] == pipe["match"] != xl()["match"]


def test_sisters_keep_what_was_set_and_have_their_own_defaults_for_the_rest(xl: XL) -> None:
    pipe = xl().using(guider="AdaptiveProjectedGuidance")
    pipe = pipe.replace("denoise.predict", PredictNoise(batching="apart"))
    inpaint, refined = pipe.task("inpaint"), pipe.task("refined")
    assert inpaint["denoise.guider"] == refined["denoise.guider"] == refined["refine.guider"] == pipe["denoise.guider"]
    assert inpaint["denoise.predict"] == refined["denoise.predict"] == PredictNoise(batching="apart")
    assert inpaint.task("text2image") == refined.task("text2image") == pipe

    rescaled = xl().using(guider=ClassifierFreeGuidance(guidance_scale=5.0, guidance_rescale=0.7)).task("inpaint")
    assert rescaled["denoise.guider"] == ClassifierFreeGuidance(guidance_scale=7.5, guidance_rescale=0.7)
    assert rescaled["cut"] == xl(task="inpaint")["cut"]


def test_a_prompt_that_was_encoded_once_is_given_to_other_runs_of_other_sizes(xl: XL) -> None:
    pipe, prompts = xl(), {"prompt": "a fish", "negative_prompt": "blue"}
    encoded = pipe.only("positive", "negative")(**prompts)
    given: dict[str, Any] = {"seed": 2, "num_inference_steps": 2, "height": 40, "width": 48}
    with counted(pipe) as did:
        ours = run(pipe, positive=encoded.positive, negative=encoded.negative, **given)
    assert did.text_encoder == 0
    assert torch.equal(ours.latents, run(pipe, **prompts, **given).latents)


def test_a_scheduler_that_draws_nothing_needs_no_seed_for_given_latents(xl: XL) -> None:
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    given: dict[str, Any] = {"prompt": "a fish", "latents": noise, "num_inference_steps": STEPS}
    assert torch.equal(run(xl(), **given).latents, run(xl(), **given).latents)


# ------------------------------------------------------------------------ what a call costs, and where ours differs
COSTS: dict[str, tuple[dict[str, Any], int, list[int]]] = {
    "guided": ({}, 1, [2] * STEPS),
    "with a negative prompt": ({"negative_prompt": "blue"}, 2, [2] * STEPS),
    "with an empty negative prompt": ({"negative_prompt": ""}, 2, [2] * STEPS),
    "guidance 1": ({"guidance_scale": 1.0, "negative_prompt": "blue"}, 1, [1] * STEPS),
    "guidance 0": ({"guidance_scale": 0.0}, 1, [1] * STEPS),
    "no guider": ({"guider": "none"}, 1, [1] * STEPS),
    "two images": ({"num_images_per_prompt": 2}, 1, [4] * STEPS),
}


@pytest.mark.parametrize("what", COSTS)
def test_what_a_call_costs(xl: XL, what: str) -> None:
    """The towers are asked once a prompt, and not at all for none; the U-Net once a step."""
    given, texts, rows = COSTS[what]
    pipe = xl()
    with counted(pipe) as did:
        pipe(prompt="a fish", num_inference_steps=STEPS, **given)
    assert (did.text_encoder, did.rows, did.decode) == (texts, rows, 1)


def test_no_prompt_at_all_is_what_no_negative_prompt_is(xl: XL) -> None:
    """So that guidance between the two changes nothing."""
    given: dict[str, Any] = {"prompt": None, "num_inference_steps": STEPS, "seed": 2}
    one, many = (run(xl(), guidance_scale=scale, **given) for scale in (1.0, 9.0))
    assert (one.latents - many.latents).abs().max() < 1e-4


def test_what_is_said_of_the_negative_prompts_sizes_is_heard(xl: XL, xl_reference: XLReference, same: Same) -> None:
    """The reference hears negative_original_size only with negative_target_size; not said, they are the picture's."""
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "negative_original_size": (32, 32)}
    same(run(xl(), seed=2, **given), xl_reference()(seed=2, negative_target_size=(64, 64), **given))
    assert (run(xl(), seed=2, **given).latents - xl_reference()(seed=2, **given).latents).abs().max() > 1e-3


# ----------------------------------------------------------------------------------------------------- distilled models
FEW: list[tuple[str, dict[str, Any], int]] = [
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, 1),  # Lightning, Turbo
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, 2),  # Turbo's own
    ("LCMScheduler", {}, 4),
    ("TCDScheduler", {}, 4),
    ("DDIMScheduler", {"timestep_spacing": "trailing"}, 2),  # Hyper-SD
]


@pytest.mark.parametrize(("scheduler", "config", "steps"), FEW)
@pytest.mark.parametrize("task", TASKS)
def test_few_steps_without_guidance(
    xl: XL,
    xl_reference: XLReference,
    same: Same,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    scheduler: str,
    config: dict[str, Any],
    steps: int,
) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": steps, "guidance_scale": 0.0, "seed": 4}
    given |= {**TASKS[task], "strength": 1.0} if task == "image2image" else {}
    theirs = xl_reference()
    monkeypatch.setattr(theirs, "config", {**theirs.config, **config})
    ours = run(xl("base", task), scheduler={**theirs.config, "_class_name": scheduler}, **given)
    eta: dict[str, Any] = (
        {"eta": 0.3} if scheduler == "TCDScheduler" else {}
    )  # its own default, which the reference's calls hide by 0
    same(ours, theirs(task, scheduler, **given, **eta))


@pytest.mark.parametrize("scale", [5.0, 8.0, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_a_unet_that_knows_guidance_is_asked_once(
    xl: XL, xl_reference: XLReference, same: Same, task: str, scale: float
) -> None:
    """LCM: the scale is embedded beside the timestep."""
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": STEPS, "guidance_scale": scale, **TASKS[task]}
    pipe = xl("lcm", task)
    with counted(pipe) as did:
        ours = run(pipe, seed=4, **given)
    assert set(did.rows) == {2}
    same(ours, xl_reference("lcm")(task, seed=4, **given))
