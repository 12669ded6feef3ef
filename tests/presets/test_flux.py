"""Flux beside the reference: the same pictures from the same files, in every task.

Tolerances are of float32 arithmetic, see `same`: latents within 1e-4, pixels within 0.05 of a step of 255.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph, InputError, LoadError, WireError
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.graph.events import BlockFinished, Note
from sfumato.registry import guiders

from .flux import SMALL, ReferenceFlux
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .flux import flux_reference as flux_reference
from .support import Result, apart, half, picture, quiet, run

Load = Callable[..., Graph]
Theirs = Callable[..., ReferenceFlux]
Same = Callable[..., object]
PROMPTS = ["a red apple", "a small cat"]
BOTH: dict[str, Any] = {"negative_prompt": "blue", "true_cfg_scale": 2.5}

CALLS: dict[str, dict[str, Any]] = {
    "a prompt": {"prompt": "a fish"},
    "two prompts": {"prompt": PROMPTS},
    "two images of a prompt": {"prompt": "a fish", "num_images_per_prompt": 2},
    "a seed for each of four": {"prompt": PROMPTS, "num_images_per_prompt": 2, "seed": [3, 4, 5, 6]},
    "another prompt for T5": {"prompt": "a fish", "prompt_2": "a shark"},
    "other prompts for T5": {"prompt": PROMPTS, "prompt_2": ["a shark", "a whale"]},
    "a longer prompt than CLIP reads": {"prompt": "a red apple " * 16, "max_sequence_length": 200},
    "an empty prompt": {"prompt": ""},
    "guidance": {"prompt": "a fish", "guidance_scale": 1.5},
    "true guidance": {"prompt": "a fish", **BOTH},
    "true guidance for two": {"prompt": PROMPTS, **BOTH, "negative_prompt": ["blue", "a dog"], "seed": [8, 9]},
    "another negative prompt for T5": {"prompt": "a fish", **BOTH, "negative_prompt_2": "grey"},
    "custom sigmas": {"prompt": "a fish", "sigmas": [1.0, 0.8, 0.3, 0.1]},
    "one step": {"prompt": "a fish", "num_inference_steps": 1},
}


# ------------------------------------------------------------------------------------------------------- text to image
@pytest.mark.parametrize("what", CALLS)
def test_text_to_image_is_the_references(flux: Load, flux_reference: Theirs, same: Same, what: str) -> None:
    given: dict[str, Any] = {**SMALL, "seed": 7, **CALLS[what]}
    same(run(flux(), **given), flux_reference()(**given))


@pytest.mark.parametrize("name", ["schnell", "static", "linear"])
@pytest.mark.parametrize("what", ["two prompts", "true guidance", "custom sigmas"])
def test_other_checkpoints_are_too(flux: Load, flux_reference: Theirs, same: Same, name: str, what: str) -> None:
    given: dict[str, Any] = {**SMALL, "seed": 7, **CALLS[what]}
    same(run(flux(name), **given), flux_reference(name)(**given))


@pytest.mark.parametrize(("height", "width"), [(16, 80), (48, 16), (64, 64), (16, 16)])
@pytest.mark.parametrize("name", ["dev", "static"])
def test_sizes(flux: Load, flux_reference: Theirs, same: Same, name: str, height: int, width: int) -> None:
    """The number of tokens shifts the schedule of one, and not of the other."""
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "height": height, "width": width}
    same(run(flux(name), seed=2, **given), flux_reference(name)(seed=2, **given))


def test_given_latents_are_the_noise_that_a_picture_comes_from(flux: Load, flux_reference: Theirs, same: Same) -> None:
    noise = torch.randn((1, 4, 4, 6), generator=torch.Generator().manual_seed(9))
    pack: Any = flux_reference().pipe._pack_latents
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 3, "max_sequence_length": 24}
    theirs = flux_reference()(latents=pack(noise, 1, 4, 4, 6), height=32, width=48, **given)
    same(run(flux(), latents=noise, **given), theirs)


def test_heun_and_its_two_turns_a_step(flux: Load, flux_reference: Theirs, same: Same) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "scheduler": "FlowMatchHeunDiscreteScheduler"}
    given["sigmas"] = [1.0, 0.6, 0.2]
    with pytest.raises(ValueError, match="sigmas"):
        flux_reference("static")(**given)  # the reference's takes none, so Flux's pipeline refuses it
    assert run(flux("static"), **given).latents.isfinite().all()


# ------------------------------------------------------------------------------------------------------- from a picture
@pytest.mark.parametrize("strength", [0.2, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("name", ["dev", "schnell"])
def test_image_to_image_is_the_references(
    flux: Load, flux_reference: Theirs, same: Same, name: str, strength: float
) -> None:
    given: dict[str, Any] = {
        **SMALL,
        "num_inference_steps": 7,
        "prompt": "a fish",
        "image": picture(1, 40, 70),
        "strength": strength,
    }
    same(run(flux(name, "image2image"), seed=4, **given), flux_reference(name)("image2image", seed=4, **given))


IMAGES: dict[str, dict[str, Any]] = {
    "two images of a prompt": {"prompt": "a fish", "num_images_per_prompt": 2, "image": picture(1)},
    "an image for each prompt": {"prompt": PROMPTS, "image": [picture(1), picture(2)], "seed": [1, 2]},
    "true guidance": {"prompt": PROMPTS, **BOTH, "image": picture(3)},
    "custom sigmas": {"prompt": "a fish", "sigmas": [1.0, 0.75, 0.5, 0.25], "image": picture(3)},
}


@pytest.mark.parametrize("what", IMAGES)
@pytest.mark.parametrize("task", ["image2image", "inpaint", "kontext"])
def test_a_picture_and_what_a_call_may_say(
    flux: Load, flux_reference: Theirs, same: Same, task: str, what: str
) -> None:
    given: dict[str, Any] = {**SMALL, "seed": 5, **IMAGES[what]}
    given |= {"inpaint": {"mask_image": half(), "strength": 0.7}, "kontext": {"max_area": 32 * 48}}.get(task, {})
    ours = dict(given)
    if task == "kontext":
        given["_auto_resize"] = ours["auto_resize"] = False
    same(run(flux("dev", task), **ours), flux_reference("dev")(task, **given))


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_inpainting_is_the_references(flux: Load, flux_reference: Theirs, same: Same, strength: float) -> None:
    given: dict[str, Any] = {**SMALL, "num_inference_steps": 5, "prompt": "a fish", "strength": strength}
    given |= {"image": picture(1, 50, 60), "mask_image": half(50, 60)}
    ours = run(flux("dev", "inpaint"), seed=4, **given)
    same(ours, flux_reference("dev")("inpaint", seed=4, **given))


@pytest.mark.parametrize("padding", [0, 10])
def test_a_small_place_is_painted_at_full_size(flux: Load, flux_reference: Theirs, padding: int) -> None:
    """Both put it back among whole numbers, so pixels are within one of 255."""
    spot = Image.new("L", (96, 96))
    spot.paste(255, (30, 40, 60, 70))
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(1, 96, 96), "mask_image": spot}
    given["padding_mask_crop"] = padding
    ours = flux("dev", "inpaint")(seed=4, output_type="pil", **given).images[0]
    (theirs,) = flux_reference("dev").ask("inpaint", seed=4, output_type="pil", **given)
    assert ours.size == theirs.size == (96, 96)
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


FILLED: dict[str, dict[str, Any]] = {
    "a prompt": {"prompt": "a fish", "image": picture(1, 50, 60), "mask_image": half(50, 60)},
    "some of the steps": {"prompt": "a fish", "image": picture(1), "mask_image": half(), "strength": 0.5},
    "two images": {"prompt": PROMPTS[0], "num_images_per_prompt": 2, "image": picture(1), "mask_image": half()},
    "all its own": {"prompt": PROMPTS, "image": [picture(1), picture(2)], "mask_image": [half(), half(64, 32)]},
}


@pytest.mark.parametrize("what", FILLED)
@pytest.mark.parametrize("task", ["fill", "inpaint"])
def test_a_checkpoint_that_was_trained_to_fill_does(
    flux: Load, flux_reference: Theirs, same: Same, task: str, what: str
) -> None:
    given: dict[str, Any] = {**SMALL, "seed": 7, **FILLED[what]}
    same(run(flux("fill", task), **given), flux_reference("fill")("fill", **given))


def test_a_small_place_is_filled_at_full_size(flux: Load) -> None:
    """Not in the reference. It paints the crop that `inpaint` paints, and puts it back; the rest stays as it was."""
    spot = Image.new("L", (96, 96))
    spot.paste(255, (30, 40, 60, 70))
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(1, 96, 96), "mask_image": spot, "seed": 4}
    pipe = flux("fill", "fill")
    whole, cropped = (pipe(padding_mask_crop=padding, **given).images[0] for padding in (None, 10))
    assert (whole.size, cropped.size) == ((48, 32), (96, 96))
    kept = (0, 0, 30, 96)
    assert np.array_equal(np.asarray(cropped.crop(kept)), np.asarray(given["image"].crop(kept)))
    painted = (30, 40, 60, 70)
    assert not np.array_equal(np.asarray(cropped.crop(painted)), np.asarray(given["image"].crop(painted)))


@pytest.mark.parametrize(("name", "task"), [("dev", "image2image"), ("dev", "inpaint"), ("fill", "fill")])
def test_several_seeds_with_one_image_give_the_pictures_that_each_gives_alone(
    flux: Load, flux_reference: Theirs, same: Same, name: str, task: str
) -> None:
    """Not so in the reference: the first generator alone draws for an image that pictures share."""
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(1), "strength": 0.7}
    given |= {} if task == "image2image" else {"mask_image": half()}
    both = run(flux(name, task), num_images_per_prompt=2, seed=[3, 4], **given)
    for row, seed in enumerate([3, 4]):
        alone = flux_reference(name)(task, seed=seed, **given)
        same(Result(both.latents[row : row + 1], both.images[row : row + 1]), alone)


@pytest.mark.parametrize("rows", [(40, 90), (64, 64)])
def test_kontext_looks_at_a_picture_of_any_shape(
    flux: Load, flux_reference: Theirs, same: Same, rows: tuple[int, int]
) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(1, *rows), "max_area": 900}
    ours = run(flux("kontext", "kontext"), seed=6, auto_resize=False, **given)
    same(ours, flux_reference("kontext")("kontext", seed=6, _auto_resize=False, **given))


def test_kontext_brings_a_picture_to_a_size_that_it_knows(flux: Load) -> None:
    """As wide as high stays so; 1 to 2 is nearest to 720 by 1456."""
    pipe = flux("kontext", "kontext").only("reference")
    for shape, known in (((64, 64), (1024, 1024)), ((100, 200), (720, 1456)), ((30, 20), (1248, 832))):
        assert pipe(image=picture(1, *shape)).reference.shape == (1, 3, *known)


@pytest.mark.parametrize("task", ["text2image", "image2image", "inpaint", "kontext"])
def test_the_models_of_the_references_own_tests(flux: Load, flux_reference: Theirs, same: Same, task: str) -> None:
    """Latents of one channel and the pixels' size, levels that nothing shifts."""
    given: dict[str, Any] = {**SMALL, "prompt": PROMPTS, **BOTH, "height": 8, "width": 12, "seed": 1}
    given |= {} if task == "text2image" else {"image": picture(1, 10, 16)}
    given |= {"inpaint": {"mask_image": half(10, 16)}, "kontext": {"max_area": 96}}.get(task, {})
    ours = dict(given)
    if task == "kontext":
        given["_auto_resize"] = ours["auto_resize"] = False
    same(run(flux("suite", task), **ours), flux_reference("suite")(task, **given))


# ----------------------------------------------------------------------------------------- what the comparison is worth
@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"prompt": "a cat"}, {"prompt_2": "a cat"}, {"guidance_scale": 8.0}, {"sigmas": [1.0, 0.5]}, BOTH],
    ids=str,
)
def test_everything_a_call_says_changes_the_picture(flux: Load, change: dict[str, Any]) -> None:
    """So that the tests above could fail."""
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 7}
    assert apart(run(flux(), **given), run(flux(), **{**given, **change})).latents > 1e-3


# ------------------------------------------------------------------------------------------------------------- swapping
@pytest.mark.parametrize("guider", sorted(set(guiders) - {"GuidanceSchedule", "NoGuidance"}))
def test_every_guider_guides_with_its_own_defaults(flux: Load, guider: str) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "num_inference_steps": 4}
    plain = run(flux(), **given)
    guided = run(flux(), guider=guider, **given)
    assert guided.latents.isfinite().all()
    assert apart(guided, plain).latents > 1e-3


def test_a_guider_of_ones_own_keeps_the_two_scales_apart(flux: Load, flux_reference: Theirs, same: Same) -> None:
    """`guidance_scale` stays what the model was distilled to read, whichever guider comes in."""
    guider = sf.guiders.ClassifierFreeGuidance(guidance_scale=7.0)
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", **BOTH, "guidance_scale": 2.0}
    same(run(flux(), guider=guider, seed=3, **given), flux_reference()(seed=3, **given))


@pytest.mark.parametrize("scheduler", ["flow_euler", "flow_heun", "flow_lcm", "dpmpp_2m", "unipc"])
def test_schedulers_by_name(flux: Load, scheduler: str) -> None:
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "num_inference_steps": 4}
    assert run(flux(), scheduler=scheduler, **given).latents.isfinite().all()


# ------------------------------------------------------------------------------------------------------------- mistakes
def test_a_guidance_scale_that_nothing_reads_is_told(flux: Load) -> None:
    schnell = flux("schnell")
    notes = [e.text for e in schnell.stream(prompt="a fish", guidance_scale=5.0, **SMALL) if isinstance(e, Note)]
    assert [text[:30] for text in notes] == ["guidance_scale=5 is not read: "]
    assert not [e for e in schnell.stream(prompt="a fish", **SMALL) if isinstance(e, Note)]


def test_a_checkpoint_for_filling_says_so_when_it_is_asked_for_something_else(flux: Load) -> None:
    with pytest.raises(LoadError, match=r"The task 'text2image': .* reads a mask .* Use the task 'fill' or 'inpaint'"):
        flux("fill")
    with pytest.raises(
        InputError, match=r"image_reference  no such input"
    ):  # of Kontext, which this transformer is not
        flux("fill", "fill")(prompt="a fish", image=picture(), mask_image=half(), image_reference=picture(), **SMALL)


def test_sizes_that_make_no_whole_tokens_are_refused(flux: Load) -> None:
    with pytest.raises(Exception, match=r"height=40 cannot be made: it must be a multiple of 16. The nearest is 32"):
        run(flux(), prompt="a fish", **{**SMALL, "height": 40})


def test_prompts_of_unequal_number_are_refused(flux: Load) -> None:
    with pytest.raises(Exception, match=r"prompt has 2 texts, and prompt_2 has 3 texts\. Give one for all"):
        run(flux(), prompt=PROMPTS, prompt_2=["a", "b", "c"], **SMALL)


def test_a_prompt_too_long_for_t5_is_told(flux: Load) -> None:
    given: dict[str, Any] = {**SMALL, "max_sequence_length": 6}
    notes = [e.text for e in flux().stream(prompt="a fish in the deep blue sea", **given) if isinstance(e, Note)]
    assert len(notes) == 1
    assert "longer than the 6 tokens" in notes[0]
    assert "blue sea" in notes[0]


def test_a_denoiser_of_another_family_is_refused_when_the_graph_is_made() -> None:
    with pytest.raises(WireError, match=r"(?s)FluxConditioning.*SDConditioning|SDConditioning.*FluxConditioning"):
        sf.load("flux").replace("denoise.predict", PredictNoise())


# -------------------------------------------------------------------------------------------------------------- loading
@pytest.mark.parametrize("name", ["dev", "fill", "depth", "kontext", "image2image", "inpaint"])
def test_the_family_is_known_by_every_class_of_pipeline(flux: Load, name: str) -> None:
    task = "fill" if name == "fill" else "text2image"
    assert flux(name, task).preset == ("flux-kontext" if name == "kontext" else "flux", task)


def test_a_kontext_checkpoint_sends_a_picture_to_its_own_task(flux: Load) -> None:
    with pytest.raises(InputError, match=r"Write pipe\.task\('kontext'\)\(…, image=…\)"):
        flux("kontext")(prompt="a fish", image=picture(), **SMALL)
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "image": picture(), "auto_resize": False, "max_area": 900}
    done = [event.path for event in flux("kontext", "auto").stream(**given) if isinstance(event, BlockFinished)]
    assert "encode_reference" in done


@pytest.mark.parametrize(
    "task", ["text2image", "image2image", "inpaint", "fill", "kontext", "kontext_inpaint", "redux"]
)
def test_every_graph_survives_its_file(tmp_path: Path, task: str) -> None:
    graph = sf.load("flux", task)
    graph.save(tmp_path)
    assert Graph.load(tmp_path) == graph


def test_a_folder_of_shards_in_a_variant_is_read_as_its_whole_self_is(
    flux: Load, flux_reference: Theirs, same: Same, tmp_path: Path
) -> None:
    """Files named as those of Flux: several for a model, with an index."""
    with quiet():
        flux_reference().pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    assert len(list((tmp_path / "transformer").glob("*.fp16-0000?-of-*.safetensors"))) > 1
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 3}
    same(run(sf.load(tmp_path, variant="fp16"), **given), run(flux(), **given))


MODULAR = {
    "dev": ("FluxModularPipeline", "FluxAutoBlocks", "text2image"),
    "kontext": ("FluxKontextModularPipeline", "FluxKontextAutoBlocks", "kontext"),
}


@pytest.mark.parametrize("name", MODULAR)
def test_a_modular_index_gives_the_same_picture(
    flux: Load, flux_checkpoint: Callable[[str], Path], diffusers: Any, tmp_path: Path, name: str
) -> None:
    pipeline, blocks, task = MODULAR[name]
    index = json.loads((flux_checkpoint(name) / "model_index.json").read_text())
    entries = {
        part: [*hint, {"pretrained_model_name_or_path": str(flux_checkpoint(name)), "subfolder": part,
                       "type_hint": hint, "variant": None, "revision": None}]
        for part, hint in index.items() if isinstance(hint, list) and hint[0]
    }  # fmt: skip
    assert hasattr(diffusers, pipeline)  # so that no name is made up
    assert hasattr(diffusers, blocks)
    keys = {"_class_name": pipeline, "_blocks_class_name": blocks, "_diffusers_version": "0.42.1"}
    (tmp_path / "modular_model_index.json").write_text(json.dumps({**keys, **entries}))
    given: dict[str, Any] = {**SMALL, "prompt": "a fish", "seed": 3}
    if task == "kontext":
        given |= {"image": picture(), "auto_resize": False, "max_area": 900}
    own = sf.Access(folders=[flux_checkpoint(name)])
    ours, again = run(flux(name, task), **given), run(sf.load(tmp_path, task, access=own), **given)
    assert torch.equal(ours.latents, again.latents)
