"""Stable Diffusion distilled to know guidance (LCM), beside the reference."""

from collections.abc import Callable
from typing import Any

import pytest

from sfumato import Graph

from .support import Reference, counted, half, picture, run

Tiny = Callable[..., Graph]
TASKS: dict[str, dict[str, Any]] = {
    "text2image": {},
    "image2image": {"image": picture(), "strength": 0.75},
    "inpaint": {"image": picture(), "mask_image": half()},
}


@pytest.mark.parametrize("scale", [8.5, 1.0])
@pytest.mark.parametrize("task", TASKS)
def test_a_unet_that_knows_guidance_is_asked_once(
    tiny: Tiny,
    tiny_reference: Callable[[str], Reference],
    same: Callable[..., object],
    task: str,
    scale: float,
) -> None:
    given: dict[str, Any] = {"prompt": ["a fish", "a cat"], "num_inference_steps": 4, "guidance_scale": scale}
    given |= {"seed": 4, "scheduler": "LCMScheduler", **TASKS[task]}
    pipe = tiny("sd-lcm", task)
    with counted(pipe) as did:
        ours = run(pipe, **given)
    assert set(did.rows) == {2}
    assert did.text_encoder == 1
    published = f"consistency {task}" if task == "image2image" else task  # its pipeline spreads the steps
    same(ours, tiny_reference("sd-lcm")(published, **given))


def test_its_scale_and_steps_are_those_of_the_published_pipeline_unless_passed(tiny: Tiny) -> None:
    assert tiny("sd-lcm").inputs["guidance_scale"].default == 8.5
    assert tiny("sd-lcm").inputs["num_inference_steps"].default == 4
    assert "guidance_rescale" not in tiny("sd-lcm").inputs
    assert tiny("sd").inputs["guidance_scale"].default == 7.5
