"""SDXL from folders laid out as published: shards, half-precision variants, old tokenizers, both kinds of index."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.flux import PredictFlow
from sfumato.presets.families import sdxl as family
from sfumato.registry import guiders

from .sdxl import KINDS, ReferenceXL
from .support import fresh, half, held, picture, quiet, run

XL = Callable[..., Graph]
GIVEN: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "num_inference_steps": 2, "seed": 3}
PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")


def as_in_the_hub(folder: Path, reference: ReferenceXL) -> None:
    """Shards of the U-Net and of a tower, and tokenizers in the files of transformers 4."""
    with quiet():
        for name in ("unet", "text_encoder_2"):
            for file in (folder / name).glob("*.safetensors"):
                file.unlink()
            getattr(reference.pipe, name).save_pretrained(folder / name, max_shard_size="40KB")
            assert list((folder / name).glob("*-00001-of-0*.safetensors"))
    pipe = sf.load(folder)
    for name in {"tokenizer", "tokenizer_2"} & pipe.bindings.keys():
        kept = held(pipe, name)
        shutil.rmtree(folder / name)
        kept.save_pretrained(folder / name)
        assert (folder / name / "merges.txt").is_file()


def as_modular(folder: Path, reference: ReferenceXL) -> None:
    """As `modular_model_index.json` has it where it was written: with another path, and parts that are not there."""
    index = json.loads((folder / "model_index.json").read_text())
    names = {"_class_name": "StableDiffusionXLModularPipeline", "_blocks_class_name": "StableDiffusionXLAutoBlocks"}
    none = {"pretrained_model_name_or_path": None, "revision": None, "variant": None, "subfolder": ""}
    entries: dict[str, Any] = {
        "controlnet": [None, None, {**none, "type_hint": ["diffusers", "ControlNetUnionModel"]}],
        "image_encoder": [None, None, {**none, "type_hint": ["transformers", "CLIPVisionModelWithProjection"]}],
        "force_zeros_for_empty_prompt": index["force_zeros_for_empty_prompt"],
        "requires_aesthetics_score": index.get("requires_aesthetics_score", False),
    }
    for name in PARTS:
        if index[name][0] is None:
            entries[name] = [None, None, {**none, "type_hint": ["transformers", "CLIPTextModel"]}]
            continue
        spec = {**none, "pretrained_model_name_or_path": "stabilityai/elsewhere", "subfolder": name}
        entries[name] = [*index[name], {**spec, "type_hint": index[name]}]
    (folder / "modular_model_index.json").write_text(json.dumps({**names, **entries}))
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize("layout", [as_in_the_hub, as_modular])
@pytest.mark.parametrize(("name", "task"), [("base", "text2image"), ("refiner", "image2image")])
def test_every_layout_of_a_folder_gives_the_same_picture(
    xl: XL,
    xl_checkpoint: Callable[[str], Path],
    xl_reference: Callable[[str], ReferenceXL],
    tmp_path: Path,
    name: str,
    task: str,
    layout: Callable[[Path, ReferenceXL], None],
) -> None:
    folder = shutil.copytree(xl_checkpoint(name), tmp_path / "checkpoint")
    layout(folder, xl_reference(name))
    given = {**GIVEN, **({"image": picture(), "strength": 1.0} if task == "image2image" else {})}
    moved = sf.load(folder, task, manager=fresh())
    assert moved.preset == ("sdxl", task)
    assert moved == xl(name, task).bind({part: moved.bindings[part] for part in moved.bindings})
    same = (run(moved, **given).latents - run(xl(name, task), **given).latents).abs().max()
    assert same < 1e-5  # not 0: shards lie in memory otherwise, and sums are rounded otherwise


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["whole", "in shards"])
def test_half_precision_files_of_a_variant(
    diffusers: Any, xl: XL, xl_checkpoint: Callable[[str], Path], tmp_path: Path, shards: dict[str, Any]
) -> None:
    """Nothing but the variant's files lies there; they run in float32, or in float16 with an exact decoder."""
    folder = tmp_path / "checkpoint"
    with quiet():
        pipe = diffusers.DiffusionPipeline.from_pretrained(xl_checkpoint("base"), torch_dtype=torch.float16)
        pipe.save_pretrained(folder, variant="fp16", **shards)
    plain = run(xl(), **GIVEN).latents
    near = run(sf.load(folder, variant="fp16", manager=fresh()), **GIVEN).latents
    assert 0 < (near - plain).abs().max() < 0.05
    small = sf.load(folder, variant="fp16", dtype="float16", manager=fresh())
    out = run(small, **GIVEN)
    assert held(small, "vae").dtype == torch.float16
    assert (out.latents - plain).abs().max() < 0.2
    with pytest.raises(sf.LoadError, match="fp16"):
        run(sf.load(folder, manager=fresh()), **GIVEN)


def test_the_first_tower_is_not_asked_for_where_the_index_has_none(xl: XL) -> None:
    pipe = xl("refiner", "image2image")
    assert {"text_encoder", "tokenizer"}.isdisjoint(pipe.components)
    assert pipe.check() == []
    assert {"aesthetic_score", "negative_aesthetic_score"} <= set(pipe.inputs)
    assert "aesthetic_score" not in xl("base", "image2image").inputs


def test_a_refiners_spec_is_loaded_as_the_rest_is(xl_checkpoint: Callable[[str], Path]) -> None:
    hint = ("diffusers", "UNet2DConditionModel")
    folder = str(xl_checkpoint("refiner"))
    spec = sf.ComponentSpec(type_hint=hint, pretrained_model_name_or_path=folder, subfolder="unet")
    manager = fresh()
    pipe = sf.load(xl_checkpoint("base"), "refined", refiner=spec, dtype="float16", manager=manager)
    refiner = pipe.bindings["refiner"]
    assert (refiner.dtype, refiner.manager) == ("float16", manager)
    assert pipe.check() == []


@pytest.mark.parametrize("name", KINDS)
def test_every_task_of_every_checkpoint_is_a_graph(xl: XL, xl_checkpoint: Callable[[str], Path], name: str) -> None:
    told = sf.inspect(xl_checkpoint(name))
    assert (told.family, told.missing) == ("sdxl", ())
    for task in told.tasks:
        wanting = {"refiner"} if task == "refined" else set[str]()
        assert {problem.place for problem in xl(name, task).check()} == wanting


def test_what_is_wrong_with_a_checkpoint_is_told_for_the_task_that_was_asked_for(
    xl_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(xl_checkpoint("base"), tmp_path / "checkpoint")
    (folder / "unet" / "config.json").write_text("{")
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(sf.LoadError, match=r"\(2 problems\)\n  unet: .*\n  vae: [^\n]*$"):
        sf.load(folder)


def test_the_task_is_picked_by_the_names_of_a_call(xl_checkpoint: Callable[[str], Path]) -> None:
    pipe = sf.load(xl_checkpoint("base"), "auto")
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 2, "seed": 1, "output_type": "np"}
    plain = pipe(**given).images
    changed = pipe(**given, image=picture(), strength=0.5).images
    painted = pipe(**given, image=picture(), mask_image=half()).images
    assert len({images.tobytes() for images in (plain, changed, painted)}) == 3


def test_sizes_come_from_the_configs(xl: XL) -> None:
    assert xl().inputs["height"].default == 64
    assert sf.load("sdxl").inputs["height"].default == 1024
    assert sf.load("sdxl").inputs["guidance_scale"].default == 5.0
    assert sf.load("sdxl", "inpaint").inputs["strength"].default == 0.9999


def test_a_score_is_asked_for_where_the_index_alone_says_so() -> None:
    assert "aesthetic_score" in family.make("image2image", {}, requires_aesthetics_score=True).inputs


def test_a_denoiser_of_another_family_is_refused_when_the_graph_is_made(xl: XL) -> None:
    with pytest.raises(sf.WireError, match="FluxConditioning"):
        xl().replace("denoise.predict", PredictFlow())


@pytest.mark.parametrize("guider", sorted(set(guiders) - {"GuidanceSchedule"}))  # which is made of others
def test_guiders_work_without_a_word(xl: XL, guider: str) -> None:
    given: dict[str, Any] = {"prompt": "a fish", "num_inference_steps": 6, "seed": 4, "guider": guider}
    guided = run(xl(), **given)
    assert guided.latents.isfinite().all()
    plain = run(xl(), **{**given, "guider": "none"})
    assert torch.equal(plain.latents, guided.latents) == (guider == "NoGuidance")
