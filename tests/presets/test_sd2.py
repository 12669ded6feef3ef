"""Stable Diffusion 2.x: checkpoints of its layout beside the reference, and relatives of it that are refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import sfumato as sf
from sfumato import LoadError

from .checkpoints import TEXT, VAE
from .conftest import NOISE, UNET
from .support import EMBEDDED, Reference, half, picture, run, seeded

Same = Callable[..., object]
STEPS = 4
PROMPTS = ["a red apple", "a small cat"]

# As published with stabilityai/stable-diffusion-2-1: OpenCLIP's tower, a layer short; heads of one width; v-prediction.
UNET_2 = {**UNET, "use_linear_projection": True, "attention_head_dim": (2, 4), "dual_cross_attention": False}
TEXT_2 = {**TEXT, "hidden_act": "gelu", "projection_dim": 512, "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
V: Mapping[str, Any] = MappingProxyType({**NOISE, "prediction_type": "v_prediction"})
ZERO: Mapping[str, Any] = MappingProxyType(
    {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}
)
KINDS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "2 base": ("PNDMScheduler", {**{k: v for k, v in NOISE.items() if k != "clip_sample"}, "skip_prk_steps": True}),
    "2.1": ("DDIMScheduler", V),
    "2.1 with zero snr": ("DDIMScheduler", ZERO),
}


@pytest.fixture(scope="module")
def folder(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint of one of the `KINDS`, as the Hub has it."""
    transformers: Any = import_module("transformers")

    @cache
    def make(name: str) -> Path:
        scheduler, config = KINDS[name]
        with seeded(0):
            place = tmp_path_factory.mktemp(name.replace(" ", "-"))
            diffusers.StableDiffusionPipeline(
                unet=diffusers.UNet2DConditionModel(**UNET_2),
                vae=diffusers.AutoencoderKL(**VAE),
                text_encoder=transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT_2)),
                tokenizer=transformers.CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", pad_token="!"),
                scheduler=getattr(diffusers, scheduler)(**config),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            ).save_pretrained(place)
        index = json.loads((place / "model_index.json").read_text())
        image = ["transformers", "CLIPImageProcessor"]  # the repo lists one, and nothing here asks for it
        (place / "model_index.json").write_text(json.dumps({**index, "feature_extractor": image}))
        return place

    return make


@pytest.fixture(scope="module")
def theirs(diffusers: Any, folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def load(name: str) -> Reference:
        place = shutil.copytree(folder(name), tmp_path_factory.mktemp("theirs") / "checkpoint")
        index = json.loads((place / "model_index.json").read_text())
        (place / "model_index.json").write_text(json.dumps({**index, "feature_extractor": [None, None]}))
        return Reference(diffusers, place)

    return load


TASKS: dict[str, dict[str, Any]] = {
    "text2image": {},
    "image2image": {"image": picture(), "strength": 0.75},
    "inpaint": {"image": picture(), "mask_image": half(), "strength": 0.75},
}
CALLS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "two images": {"num_images_per_prompt": 2},
    "a negative prompt": {"negative_prompt": "blue"},
    "clip_skip": {"clip_skip": 1},
    "guidance_rescale": {"guidance_rescale": 0.7},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", KINDS)
def test_the_pictures_of_the_reference(
    folder: Callable[[str], Path], theirs: Callable[[str], Reference], same: Same, name: str, task: str
) -> None:
    """The reference's PNDM is wrong where strength leaves out steps: tests/schedulers/test_differences.py."""
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": STEPS, **TASKS[task]}
    if name == "2 base" and task != "text2image":
        given["scheduler"] = "EulerDiscreteScheduler"
    pipe = sf.load(folder(name), task)
    assert pipe.preset == ("sd", task)
    same(run(pipe, seed=1, **given), theirs(name)(task, seed=1, **given))


@pytest.mark.parametrize("what", CALLS)
def test_what_a_call_may_say(
    folder: Callable[[str], Path], theirs: Callable[[str], Reference], same: Same, what: str
) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "seed": 7, **CALLS[what]}
    same(run(sf.load(folder("2.1 with zero snr")), **given), theirs("2.1 with zero snr")(**given))


def test_v_prediction_matters(folder: Callable[[str], Path]) -> None:
    """So that the tests above could fail."""
    pipe = sf.load(folder("2.1"))
    one, other = (
        run(pipe, prompt="a fish", num_inference_steps=2, seed=1, scheduler={"prediction_type": kind}).latents
        for kind in ("v_prediction", "epsilon")
    )
    assert (one - other).abs().max() > 0.1


REFUSED = {
    "StableDiffusionUpscalePipeline": "reads a small picture and how much noise is on it",
    "StableDiffusionDepth2ImgPipeline": "reads a depth map",
    "StableUnCLIPImg2ImgPipeline": "reads what CLIP sees in a picture",
    "StableDiffusionLatentUpscalePipeline": "reads small latents",
    "StableDiffusionInstructPix2PixPipeline": "reads a picture, and is guided by that",
}


@pytest.mark.parametrize("name", REFUSED)
def test_relatives_with_other_denoisers_are_refused_with_the_reason(
    folder: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    place = shutil.copytree(folder("2.1"), tmp_path / "checkpoint")
    index = json.loads((place / "model_index.json").read_text())
    (place / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    with pytest.raises(LoadError, match=rf"{name}', which no preset family is for\. Its U-Net {REFUSED[name]}"):
        sf.load(place)
