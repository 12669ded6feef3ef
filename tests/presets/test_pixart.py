"""PixArt beside the reference: same numbers from the same files.

Tolerances are of float32 arithmetic, as for Stable Diffusion: pixels within 0.05 of a step of 255, and latents within
1e-5 of the largest, which is about 600, since the first step divides what a random model says by 0.006.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sfumato as sf
from sfumato import WireError
from sfumato.blocks.denoise.unet import PredictNoise

from . import checkpoints
from .support import Result, apart, half, picture, quiet, run, run_in_parts

Same = Callable[..., object]
STEPS = 4
PROMPTS = ["a red apple", "A small CAT "]
TRANSFORMER: dict[str, Any] = {
    "sample_size": 8,
    "num_layers": 3,
    "attention_head_dim": 12,
    "num_attention_heads": 4,
    "cross_attention_dim": 48,
    "caption_channels": 96,
    "use_additional_conditions": False,
}
VAE: dict[str, Any] = {**checkpoints.VAE, "scaling_factor": 0.13025}
NOISE: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "algorithm_type": "dpmsolver++", "solver_order": 2}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sigma": ("pixart", "PixArtSigmaPipeline", {}),
    "alpha": ("pixart-alpha", "PixArtAlphaPipeline", {"sample_size": 128, "use_additional_conditions": True}),
    "alpha for 512": ("pixart-alpha", "PixArtAlphaPipeline", {"interpolation_scale": 2}),
}


@pytest.fixture(scope="module")
def folder(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint of one of the `KINDS`."""
    transformers: Any = import_module("transformers")

    def make(name: str) -> Any:
        _, pipeline, config = KINDS[name]
        pipe = getattr(diffusers, pipeline)(
            transformer=diffusers.PixArtTransformer2DModel(**{**TRANSFORMER, **config}),
            vae=diffusers.AutoencoderKL(**VAE),
            text_encoder=transformers.T5EncoderModel(transformers.T5Config(**checkpoints.T5)),
            tokenizer=transformers.T5Tokenizer.from_pretrained(checkpoints.T5_FILES),
            scheduler=diffusers.DPMSolverMultistepScheduler(**NOISE),
        )
        for parameter in [*pipe.transformer.parameters(), *pipe.text_encoder.parameters()]:
            torch.nn.init.normal_(parameter, std=0.12)
        return pipe

    return checkpoints.saved(tmp_path_factory, make)


@pytest.fixture(scope="module")
def theirs(diffusers: Any, folder: Callable[[str], Path]) -> Callable[..., Result]:
    pipes: dict[str, Any] = {}

    def call(name: str, seed: int | Sequence[int] = 0, **inputs: Any) -> Result:
        with quiet():
            if name not in pipes:
                pipes[name] = diffusers.DiffusionPipeline.from_pretrained(folder(name), torch_dtype=torch.float32)
                pipes[name].set_progress_bar_config(disable=True)
            last: list[Tensor] = []

            def keep(_step: int, _t: Any, latents: Tensor) -> None:
                last[:] = [latents]

            made = [torch.Generator("cpu").manual_seed(s) for s in ([seed] if isinstance(seed, int) else seed)]
            given = {"use_resolution_binning": False, "output_type": "np", **inputs}
            given["generator"] = made[0] if isinstance(seed, int) else made
            images = pipes[name](callback=keep, **given).images
        return Result(last[0], images)

    return call


CALLS: dict[str, dict[str, Any]] = {
    "two prompts": {"prompt": PROMPTS},
    "two images of two prompts": {"prompt": PROMPTS, "num_images_per_prompt": 2},
    "a seed for each": {"prompt": PROMPTS, "seed": [3, 4]},
    "a negative prompt": {"negative_prompt": "blue"},
    "guidance 1": {"guidance_scale": 1.0},
    "fewer tokens": {"max_sequence_length": 12},
    "an odd size": {"height": 48, "width": 112},
    "an empty prompt": {"prompt": ""},
}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("name", KINDS)
def test_the_pictures_of_the_reference(
    folder: Callable[[str], Path], theirs: Callable[..., Result], same: Same, name: str, what: str
) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "height": 64, "width": 64, "seed": 7}
    given |= CALLS[what]
    pipe = sf.load(folder(name))
    assert pipe.preset == (KINDS[name][0], "text2image")
    ours = run(pipe, **given)
    same(ours, theirs(name, **given), latents=1e-5 * float(ours.latents.abs().max()))


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint"])
def test_a_run_in_parts_is_the_whole(folder: Callable[[str], Path], task: str) -> None:
    """The second part has the history of DPM++ 2M, PixArt's scheduler."""
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 5, "strength": 0.8, "image": picture()}
    given |= {"mask_image": half()} if task == "inpaint" else {}
    pipe = sf.load(folder("sigma"), task)
    given = {name: value for name, value in given.items() if name in pipe.inputs}
    assert apart(run_in_parts(pipe, 3, 2, **given), run(pipe, seed=2, **given)).latents == 0


def test_the_prompt_and_its_mask_matter(folder: Callable[[str], Path]) -> None:
    """So that the tests above could fail."""
    pipe = sf.load(folder("sigma"))
    one, two = (run(pipe, prompt=text, seed=1, num_inference_steps=STEPS) for text in ("a fish", "a red apple"))
    assert (one.latents - two.latents).abs().max() > 1e-2
    positive = pipe.only("positive")(prompt="a fish").positive
    assert positive.mask.sum() < positive.mask.numel() == 300


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
@pytest.mark.parametrize("guider", ["cfg", "pag", "slg", "seg", "none"])
def test_other_tasks_and_guiders_come_with_the_vocabulary(
    folder: Callable[[str], Path], task: str, guider: str
) -> None:
    pipe = sf.load(folder("sigma"), task)
    given: dict[str, Any] = {"prompt": "a fish", "image": picture(), "num_inference_steps": 6, "seed": 2}
    given |= {"mask_image": half()} if task == "inpaint" else {}
    out = run(pipe, guider=guider, **given)
    assert out.latents.isfinite().all()
    other = run(pipe, guider=guider, **{**given, "image": picture(5)})
    assert not torch.equal(out.latents, other.latents)


def test_another_familys_denoiser_is_refused() -> None:
    with pytest.raises(WireError, match="SDConditioning"):
        sf.load("pixart").replace("denoise.predict", PredictNoise())


def test_a_picture_is_made_again_from_its_file(folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = folder("sigma")
    call: dict[str, Any] = {"prompt": PROMPTS[0], "seed": 7, "num_inference_steps": 2, "height": 16, "width": 16}
    sf.load(model)(**call).images[0].save(tmp_path / "x.png")
    again = sf.replay(tmp_path / "x.png", folder=model.parent)
    assert (again.verdict, again.differences) == ("identical", ())
