"""Runs in parts: for each family and task, two parts of a run give the picture of the whole one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.control.controlnet import ApplyControlNet

from .control import Nets
from .control import nets as nets
from .flux import SMALL
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .support import Reference, apart, counted, half, picture, run, run_in_parts

Load = Callable[..., Graph]
SD: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 4}
SCHEDULERS = ("dpmpp_2m", "euler_a", "heun")


def same_in_parts(pipe: Graph, stop: int, seed: Any = 5, **given: Any) -> None:
    """Bit for bit."""
    given = {name: value for name, value in given.items() if name in (*pipe.inputs, *pipe.components, *pipe.slots)}
    far = apart(run_in_parts(pipe, stop, seed, **given), run(pipe, seed=seed, **given))
    assert far.latents == far.pixels == 0


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_stable_diffusion(tiny: Load, task: str, scheduler: str) -> None:
    """The image is a sample of the encoder's distribution, and the mask keeps noised parts: both are drawn again."""
    given = {**SD, "image": picture(), "mask_image": half(), "strength": 0.75, "scheduler": scheduler}
    same_in_parts(tiny("sd", task), 2, **given, **({"height": 64, "width": 64} if task == "text2image" else {}))


@pytest.mark.parametrize(("name", "task"), [("sd-inpainting", "inpaint"), ("sd-lcm", "text2image"),
                                            ("sd-lcm", "image2image")])  # fmt: skip
def test_its_other_checkpoints(tiny: Load, name: str, task: str) -> None:
    same_in_parts(tiny(name, task), 3, **SD, image=picture(), mask_image=half(), strength=1.0, scheduler="lcm")


def test_several_pictures_with_a_seed_each(tiny: Load) -> None:
    given = {**SD, "prompt": ["a fish", "a cat"], "num_images_per_prompt": 2, "scheduler": "euler_a"}
    same_in_parts(tiny("sd", "inpaint"), 3, [1, 2, 3, 4], image=picture(), mask_image=half(), **given)


@pytest.mark.parametrize("guider", ["apg", "cfg_zero", "pag"])
def test_what_guiders_remember_goes_on_too(tiny: Load, guider: str) -> None:
    apg = sf.guiders.AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5)
    same_in_parts(tiny("sd"), 2, **SD, guider=apg if guider == "apg" else guider, height=64, width=64)


def test_a_window_of_control_is_that_of_the_whole_run(
    nets: Nets, tiny: Load, tiny_reference: Callable[..., Reference]
) -> None:
    """Strength leaves four of five steps, and control is on in the second and third of these."""
    net = nets.control(tiny_reference("sd").pipe.unet)
    pipe = tiny("sd", "image2image").insert("control", ApplyControlNet(), before="denoise.guider")
    given = {**SD, "num_inference_steps": 5, "strength": 0.8, "image": picture(), "control_image": picture(9)}
    same_in_parts(pipe.bind(controlnet=net.ours), 3, **given, control_guidance_start=0.2, control_guidance_end=0.8)


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_sdxl(xl: Load, task: str) -> None:
    given: dict[str, Any] = {**SD, "strength": 0.75, "image": picture(), "mask_image": half(), "scheduler": "dpmpp_2m"}
    same_in_parts(xl("base", task), 2, **given, **({"height": 64, "width": 64} if task == "text2image" else {}))


def test_sdxl_with_a_mask_as_channels_and_fractions(xl: Load) -> None:
    """The masked picture is encoded with the noise that the whole run draws for it."""
    given: dict[str, Any] = {**SD, "image": picture(), "mask_image": half(), "strength": 1.0}
    pipe = xl("inpainting", "inpaint")
    first = pipe.only("halfway")(seed=1, denoising_end=0.5, **given).halfway
    rest = run(pipe, halfway=first, denoising_start=0.5, **given)
    assert apart(rest, run(pipe, seed=1, **given)).latents == 0


def test_the_refiner_goes_on_from_the_base_without_a_picture(xl: Load) -> None:
    """Its picture is not read, and with one model of both the two runs are the base's own."""
    given: dict[str, Any] = {**SD, "num_inference_steps": 5, "scheduler": "dpmpp_2m", "guidance_scale": 5.0}
    whole = run(xl(), seed=1, **given)
    first = xl().only("halfway")(seed=1, denoising_end=0.6, **given).halfway
    rest = xl("base", "image2image")
    assert apart(run(rest, halfway=first, image_latents=first.latents, **given), whole).latents == 0


@pytest.mark.parametrize("kind", ["3 medium", "dynamic"])
@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_sd3(sd3: Load, kind: str, task: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 4, "strength": 0.8, "height": 32, "width": 32}
    same_in_parts(sd3(kind, task), 2, **given, image=picture(), mask_image=half())


FLUX = [
    ("dev", "text2image"), ("dev", "image2image"), ("dev", "inpaint"), ("fill", "fill"), ("kontext", "kontext"),
    ("depth", "text2image"), ("depth", "image2image"), ("depth", "inpaint"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "task"), FLUX)
def test_flux_and_its_tools(flux: Load, name: str, task: str) -> None:
    """A control picture is encoded with noise too."""
    given = {**SMALL, "prompt": "a fish", "strength": 1.0, "auto_resize": False, "max_area": 32 * 48}
    same_in_parts(flux(name, task), 2, **given, image=picture(), mask_image=half(), control_image=picture(9))


@pytest.mark.parametrize("scheduler", ["FlowMatchHeunDiscreteScheduler", "dpmpp_2m", "euler_a"])
def test_flux_with_other_schedulers(flux: Load, scheduler: str) -> None:
    try:
        pipe = flux().using(scheduler=scheduler)
    except sf.ConfigError:
        pytest.skip(f"{scheduler} does not work on flow models")
    same_in_parts(pipe, 2, **SMALL, prompt="a fish")


def test_wrong_mixes_are_refused(tiny: Load, flux: Load, sd3: Load) -> None:
    pipe = tiny("sd")
    given = {**SD, "height": 64, "width": 64}
    with counted(pipe) as did:
        first = pipe.only("halfway")(seed=1, stop_step=2, **given).halfway
        assert did.decode == 0
        did.unet = 0
        for change, text in (
            ({"num_inference_steps": 5}, "4 and 5 steps"),
            ({"height": 72}, r"have the shape 1x4x8x8, and this run needs 1x4x9x8"),
            ({"prompt": ["a", "b"]}, r"have the shape 1x4x8x8, and this run needs 2x4x8x8"),
            ({"scheduler": "euler"}, r"halfway  was made by \w+, and this graph has EulerDiscreteScheduler"),
            ({"start_step": 1}, "are of step 2, not of step 1"),
        ):
            with pytest.raises((ValueError, sf.InputError), match=text):
                pipe(**{**given, **change}, halfway=first)
        with pytest.raises(sf.InputError, match=r"latents"):
            pipe(**given, latents=first)
        assert did.unet == 0
    small = flux().only("halfway")(prompt="a fish", stop_step=2, seed=1, **SMALL).halfway
    with pytest.raises(ValueError, match="other pictures or another size"):
        flux()(prompt="a fish", halfway=small, **{**SMALL, "width": 64})
    turned = {**SMALL, "height": 48, "width": 32}
    with pytest.raises(ValueError, match="other pictures or another size"):
        flux()(prompt="a fish", halfway=small, **turned)
    with pytest.raises(sf.InputError, match="was made by"):
        sd3()(prompt="a fish", halfway=small, height=32, width=48, num_inference_steps=3)


def test_steps_that_begin_later_take_no_noise(tiny: Load) -> None:
    """Noise that is scaled for the first step, or latents that are scaled twice, were silently wrong."""
    pipe = tiny("sd")
    steps = pipe.bindings["scheduler"].load().steps(4)
    with pytest.raises(ValueError, match=r"The steps begin with step 2, and noise belongs before the first\. To"):
        pipe(prompt="a fish", steps=steps[2:], latents=torch.randn(1, 4, 8, 8))


def test_half_way_latents_in_files_of_the_memo(tiny: Load, tmp_path: Path) -> None:
    memo = sf.memo(tmp_path)
    pipe = tiny("sd")
    given = {**SD, "height": 64, "width": 64, "scheduler": "dpmpp_2m"}
    first = pipe.only("halfway")(seed=1, stop_step=2, memo=memo, **given).halfway
    again = pipe.only("halfway")(seed=1, stop_step=2, memo=sf.memo(tmp_path), **given).halfway
    assert again is not first
    assert apart(run(pipe, halfway=again, **given), run(pipe, seed=1, **given)).latents == 0
