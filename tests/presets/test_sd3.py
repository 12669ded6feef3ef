"""Stable Diffusion 3 beside the reference: same numbers from the same files.

Tolerances are of float32 arithmetic, as for Stable Diffusion: latents within 1e-4, pixels within 0.05 of a step of 255.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato import Graph

from .checkpoints import T5_FILES
from .sd3 import Reference3
from .sd3 import sd3 as sd3
from .sd3 import sd3_checkpoint as sd3_checkpoint
from .sd3 import sd3_reference as sd3_reference
from .support import fresh, half, picture, run

Same = Callable[..., object]
SD3 = Callable[..., Graph]
SD3Reference = Callable[..., Reference3]

STEPS = 4
PROMPTS = ["a red apple", "a small cat"]
IMAGE: dict[str, Any] = {"image": picture(), "strength": 0.75}
MASK: dict[str, Any] = {**IMAGE, "mask_image": half()}
TASKS: dict[str, dict[str, Any]] = {"text2image": {}, "image2image": IMAGE}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["3 medium", "3.5 medium", "3.5 large", "without t5", "dynamic"])
def test_the_pictures_of_the_reference(sd3: SD3, sd3_reference: SD3Reference, same: Same, name: str, task: str) -> None:
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": STEPS, **TASKS[task]}
    same(run(sd3(name, task), seed=1, **given), sd3_reference(name)(task, seed=1, **given))


MANY: dict[str, dict[str, Any]] = {
    "two images of a prompt": {"num_images_per_prompt": 2},
    "two images of two prompts": {"prompt": PROMPTS, "num_images_per_prompt": 2},
    "a seed for each": {"prompt": PROMPTS, "seed": [3, 4]},
    "prompt_2": {"prompt_2": "a blue bird"},
    "prompt_3": {"prompt_3": "a blue bird"},
    "prompts for each tower": {"prompt": PROMPTS, "prompt_2": ["a dog", "a blue bird"], "prompt_3": ["", "a fish"]},
    "a negative prompt": {"negative_prompt": "blue"},
    "three negative prompts": {"negative_prompt": "blue", "negative_prompt_2": "a dog", "negative_prompt_3": "rain"},
    "negative prompts for each": {"prompt": PROMPTS, "negative_prompt": ["blue", "a dog"]},
    "clip_skip": {"clip_skip": 1},
    "guidance 1": {"guidance_scale": 1.0},
    "more tokens of T5": {"max_sequence_length": 300},
    "an empty prompt": {"prompt": ""},
    "custom sigmas": {"sigmas": [1.0, 0.6, 0.3]},
    "given latents": {"latents": torch.randn((1, 16, 8, 8), generator=torch.Generator().manual_seed(9))},
    "an odd size": {"height": 48, "width": 112},
}


@pytest.mark.parametrize("what", MANY)
def test_what_a_call_may_say(sd3: SD3, sd3_reference: SD3Reference, same: Same, what: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "seed": 7, **MANY[what]}
    same(run(sd3("3.5 large"), **given), sd3_reference("3.5 large")(**given))


def test_a_prompt_that_t5_does_not_read_whole_is_cut_with_a_note(
    sd3: SD3, sd3_reference: SD3Reference, same: Same
) -> None:
    given: dict[str, Any] = {"prompt": "a red apple on a wooden table", "num_inference_steps": STEPS}
    given |= {"max_sequence_length": 5, "seed": 7}
    with pytest.warns(UserWarning, match=r"longer than the 5 tokens .* Dropped: '.*table'"):
        ours = run(sd3(), **given)
    same(ours, sd3_reference()(**given))


FROM_AN_IMAGE = ["two images of a prompt", "a seed for each", "clip_skip", "guidance 1", "custom sigmas"]


@pytest.mark.parametrize("what", FROM_AN_IMAGE)
def test_what_a_call_from_an_image_may_say(sd3: SD3, sd3_reference: SD3Reference, same: Same, what: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "seed": 7, **IMAGE, **MANY[what]}
    if isinstance(given["seed"], list):
        given["image"] = [picture(1), picture(2)]  # the reference takes one image for each generator
    same(run(sd3("3 medium", "image2image"), **given), sd3_reference()("image2image", **given))


@pytest.mark.parametrize("strength", [1.0, 0.99, 0.9, 0.6, 0.3, 0.05])
@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_strength(sd3: SD3, sd3_reference: SD3Reference, same: Same, task: str, strength: float) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 10, **MASK, "strength": strength}
    if task == "image2image":
        del given["mask_image"]
    same(run(sd3("unshifted", task), seed=7, **given), sd3_reference("unshifted")(task, seed=7, **given))


def test_an_image_is_brought_to_the_size_of_the_model(sd3: SD3, sd3_reference: SD3Reference, same: Same) -> None:
    """As published for SD3; Stable Diffusion keeps the image's own size."""
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, "image": picture(3, 50, 101)}
    ours = run(sd3("3 medium", "image2image"), seed=2, **given)
    assert ours.images.shape[1:3] == (64, 64)
    same(ours, sd3_reference()("image2image", seed=2, **given))
    given |= {"height": 48, "width": 80}
    same(run(sd3("3 medium", "image2image"), seed=2, **given), sd3_reference()("image2image", seed=2, **given))


# ------------------------------------------------------------------------------------------------------------- inpaint
INPAINT: dict[str, dict[str, Any]] = {
    "as it is": {},
    "two images": {"num_images_per_prompt": 2},
    "two prompts": {"prompt": PROMPTS},
    "strength 1": {"strength": 1.0},
    "an odd size": {"height": 48, "width": 80},
}


@pytest.mark.parametrize("what", INPAINT)
def test_inpainting(sd3: SD3, sd3_reference: SD3Reference, same: Same, what: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, **MASK, **INPAINT[what]}
    same(run(sd3("unshifted", "inpaint"), seed=3, **given), sd3_reference("unshifted")("inpaint", seed=3, **given))


def test_inpainting_a_crop_of_the_image(sd3: SD3, sd3_reference: SD3Reference) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, **MASK, "padding_mask_crop": 4}
    [ours] = sd3("unshifted", "inpaint")(seed=3, **given).images
    theirs = sd3_reference("unshifted")("inpaint", seed=3, output_type="pil", **given).images
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(theirs[0], np.int16)).max() <= 1


def test_inpainting_keeps_the_shift_of_the_autoencoder_which_the_reference_forgets(
    sd3: SD3, sd3_reference: SD3Reference
) -> None:
    """diffusers 0.42.1 decodes latents / scaling_factor, without shift_factor, in this pipeline alone."""
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": STEPS, **MASK}
    reference = sd3_reference()
    ours, theirs = run(sd3("3 medium", "inpaint"), seed=3, **given), reference("inpaint", seed=3, **given)
    assert (ours.latents - theirs.latents).abs().max() < 1e-4
    vae = reference.pipe.vae
    shifted = theirs.latents / vae.config.scaling_factor + vae.config.shift_factor
    right = vae.decode(shifted).sample.detach().add(1).div(2).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert abs(ours.images - right).max() * 255 < 0.05
    assert abs(theirs.images - right).max() * 255 > 0.05


# ------------------------------------------------------------------------------------------------------------- guiders
@pytest.mark.parametrize("layers", [[1], [7, 8, 9]])
def test_skip_layer_guidance_as_published_with_sd_3_5(
    sd3: SD3, sd3_reference: SD3Reference, same: Same, layers: list[int]
) -> None:
    """At the default end, 0.2, that pipeline skips one step more than the published guider, whose count is ours."""
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 10}
    slg = {"skip_layer_guidance_start": 0.05, "skip_layer_guidance_stop": 0.4}
    guider = {"_class_name": "SkipLayerGuidance", "skip_layer_guidance_layers": layers, "guidance_scale": 5.0, **slg}
    ours = run(sd3("3.5 medium", guider=guider), seed=4, **given)
    theirs = sd3_reference("3.5 medium")(seed=4, guidance_scale=5.0, skip_guidance_layers=layers, **slg, **given)
    same(ours, theirs)
    plain = sd3_reference("3.5 medium")(seed=4, guidance_scale=5.0, **given)
    assert (ours.latents - plain.latents).abs().max() > 1e-2


def test_skip_layer_guidance_without_a_word_skips_the_published_layers(sd3: SD3) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 8, "seed": 4}
    pipe = sd3("3.5 medium")
    usual = run(pipe, guider="slg", **given)
    named = run(pipe, guider={"_class_name": "SkipLayerGuidance", "skip_layer_guidance_layers": [7, 8, 9]}, **given)
    other = run(pipe, guider={"_class_name": "SkipLayerGuidance", "skip_layer_guidance_layers": [1]}, **given)
    assert torch.equal(usual.latents, named.latents)
    assert not torch.equal(usual.latents, other.latents)


@pytest.mark.parametrize("guider", ["pag", "seg", "apg", "cfg_zero_star", "none"])
def test_guiders_work_without_a_word(sd3: SD3, guider: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 6, "seed": 4}
    plain, guided = run(sd3("3.5 medium"), **given), run(sd3("3.5 medium"), guider=guider, **given)
    assert guided.latents.isfinite().all()
    assert not torch.equal(plain.latents, guided.latents)


# ------------------------------------------------------------------------------------------------------------- loading
def as_modular(folder: Path) -> None:
    """As `modular_model_index.json` says it, with the path that it had where it was saved."""
    index = json.loads((folder / "model_index.json").read_text())
    keys = {"pretrained_model_name_or_path": "stabilityai/stable-diffusion-3", "revision": None, "variant": None}
    entries: dict[str, Any] = {
        name: [*value, {**keys, "subfolder": name, "type_hint": value}]
        for name, value in index.items()
        if isinstance(value, list) and value[0]
    }
    names = {"_class_name": "StableDiffusion3ModularPipeline", "_blocks_class_name": "StableDiffusion3AutoBlocks"}
    (folder / "modular_model_index.json").write_text(json.dumps({**names, **entries}))
    (folder / "model_index.json").unlink()


def as_in_the_hub(folder: Path) -> None:
    """Shards of the transformer and of T5, and a T5 tokenizer that is a SentencePiece file."""
    sf.models.SD3Transformer2DModel.from_pretrained(folder / "transformer").save_pretrained(
        folder / "transformer", max_shard_size=50_000
    )
    sf.models.T5EncoderModel.from_pretrained(folder / "text_encoder_3").save_pretrained(
        folder / "text_encoder_3", max_shard_size=50_000
    )
    (folder / "tokenizer_3" / "tokenizer.json").unlink()
    shutil.copy(T5_FILES / "spiece.model", folder / "tokenizer_3")


@pytest.mark.parametrize("layout", [as_modular, as_in_the_hub])
def test_every_layout_of_a_folder_gives_the_same_picture(
    sd3_checkpoint: Callable[[str], Path], sd3: SD3, tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(sd3_checkpoint("3 medium"), tmp_path / "checkpoint")
    layout(folder)
    given: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 3}
    moved = sf.load(folder, manager=fresh())
    assert moved.preset == ("sd3", "text2image")
    assert torch.equal(run(moved, **given).latents, run(sd3(), **given).latents)


def test_half_precision_files_of_a_variant(sd3_checkpoint: Callable[[str], Path], sd3: SD3, tmp_path: Path) -> None:
    folder = shutil.copytree(sd3_checkpoint("3 medium"), tmp_path / "checkpoint")
    for name in ("transformer", "text_encoder_3"):
        part: Any = sd3().bindings[name].load()
        for file in (folder / name).glob("*.safetensors"):
            file.unlink()
        kind = type(part)
        half_part = kind.from_config(part.to_config())
        half_part.load_state_dict(part.state_dict())
        half_part.half().save_pretrained(folder / name, variant="fp16")
    given: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2, "seed": 3}
    near = run(sf.load(folder, variant="fp16", manager=fresh()), **given).latents
    assert 0 < (near - run(sd3(), **given).latents).abs().max() < 0.05


def test_without_t5_nobody_asks_for_it(
    sd3_checkpoint: Callable[[str], Path], sd3_reference: SD3Reference, same: Same, tmp_path: Path
) -> None:
    """Its files may be missing, as where somebody left out 9 GB of download."""
    folder = shutil.copytree(sd3_checkpoint("3 medium"), tmp_path / "checkpoint")
    shutil.rmtree(folder / "text_encoder_3")
    pipe = sf.load(folder, text_encoder_3=None, tokenizer_3=None, manager=fresh())
    assert "text_encoder_3" not in pipe.components
    assert "prompt_3" not in pipe.inputs
    given: dict[str, Any] = {"prompt": "a red apple", "num_inference_steps": 2}
    reference = sd3_reference("without t5")  # the same weights: T5 comes last of what is drawn
    same(run(pipe, seed=3, **given), reference(seed=3, **given))
    image = pipe.task("image2image")(image=picture(), seed=3, **given).images[0]
    assert image.size == (64, 64)


def test_towers_and_tokenizers_of_transformers_may_be_bound_in_place_of_ours(
    sd3: SD3, sd3_reference: SD3Reference
) -> None:
    names = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
    parts = sd3_reference().pipe.components
    theirs = {name: parts[name] for name in names}
    assert all(type(part).__module__.startswith("transformers.") for part in theirs.values())
    given: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 2, "seed": 3}
    assert (run(sd3().bind(**theirs), **given).latents - run(sd3(), **given).latents).abs().max() < 1e-4


def test_the_family_by_its_name_has_three_towers() -> None:
    pipe = sf.load("sd3")
    assert {"text_encoder", "text_encoder_2", "text_encoder_3", "transformer", "vae", "scheduler"} <= {*pipe.components}
