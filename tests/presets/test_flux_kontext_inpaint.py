"""Kontext inside a mask beside the reference: the transformer reads the inpainted picture, or another one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato import Graph, InputError
from sfumato.graph.events import BlockFinished

from .flux import SMALL, ReferenceFlux
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .flux import flux_reference as flux_reference
from .support import apart, fresh, half, picture, run

Load = Callable[..., Graph]
Theirs = Callable[..., ReferenceFlux]
Same = Callable[..., object]
NAME = "FluxKontextInpaintPipeline"
PROMPTS = ["a fish", "a cat"]
GIVEN: dict[str, Any] = {
    "prompt": "a fish",
    "num_inference_steps": 5,
    "max_sequence_length": 24,
    "seed": 6,
    "image": picture(1, 40, 70),
    "mask_image": half(40, 70),
}

CALLS: dict[str, dict[str, Any]] = {
    "a picture": {},
    "a reference of another shape": {"image_reference": picture(2, 66, 34)},
    "some of the noise": {"strength": 0.6},
    "a little noise and a reference": {"strength": 0.3, "image_reference": picture(2)},
    "one step": {"num_inference_steps": 1},
    "two images of a prompt": {"num_images_per_prompt": 2, "strength": 0.8},
    "two prompts": {"prompt": PROMPTS},
    "two images of two prompts, and a reference": {
        "prompt": PROMPTS,
        "num_images_per_prompt": 2,
        "image_reference": picture(2),
    },
    "all its own": {
        "prompt": PROMPTS,
        "image": [picture(1), picture(2)],
        "mask_image": [half(), half().rotate(90)],
        "image_reference": [picture(3), picture(4)],
        "seed": [8, 9],
    },
    "a mask of another size": {"mask_image": half(100, 50).rotate(30)},
    "a mask in colour": {"mask_image": picture(4, 90, 70)},
    "a white mask": {"mask_image": Image.new("L", (64, 64), 255)},
    "true guidance": {"prompt": PROMPTS, "negative_prompt": "blue", "true_cfg_scale": 2.5},
    "sigmas and a scale": {"sigmas": [1.0, 0.75, 0.5, 0.25], "guidance_scale": 7.0},
}


def kontext(folder: Path, to: Path) -> Path:
    """A copy of a folder of Kontext whose index names the published class for inpainting."""
    index = shutil.copytree(folder, to) / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": NAME}))
    return to


@pytest.fixture(scope="session")
def folder(flux_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kontext(flux_checkpoint("kontext"), tmp_path_factory.mktemp("inpaint") / "kontext")


@pytest.fixture(scope="session")
def theirs(diffusers: Any, folder: Path) -> ReferenceFlux:
    return ReferenceFlux(diffusers, folder)


@pytest.mark.parametrize("what", CALLS)
def test_its_index_loads_and_paints_as_in_the_reference(
    folder: Path, theirs: ReferenceFlux, same: Same, what: str
) -> None:
    given = {**GIVEN, **CALLS[what]}
    ours = run(sf.load(folder, "inpaint"), auto_resize=False, **given)
    same(ours, theirs("kontext inpaint", _auto_resize=False, **given))


def test_a_picture_is_painted_at_a_size_that_kontext_knows(folder: Path) -> None:
    """As is a reference, each by its own shape. 1 to 2 is nearest to 720 by 1456."""
    pipe = sf.load(folder, "inpaint").only("pixels", "mask", "reference_latents")
    given: dict[str, Any] = {"prompt": "a fish", "image": picture(1, 64, 64), "mask_image": half()}
    read = pipe(image_reference=picture(2, 100, 200), **given)
    assert read.pixels.shape == (1, 3, 1024, 1024)
    assert read.mask.shape == (1, 1, 1024, 1024)
    assert read.reference_latents.shape == (1, 4, 720 // 8, 1456 // 8)
    read = pipe(image_reference=picture(2, 100, 200), auto_resize=False, **given)
    assert read.pixels.shape == (1, 3, 64, 64)
    assert read.reference_latents.shape == (1, 4, 96 // 8, 192 // 8)


def test_a_size_that_is_passed_counts(folder: Path) -> None:
    """The node that would choose it does not run."""
    out = run(sf.load(folder, "inpaint"), height=48, width=32, auto_resize=False, **GIVEN)
    assert out.images.shape == (1, 48, 32, 3)


def test_the_reference_is_what_the_transformer_reads(folder: Path) -> None:
    pipe = sf.load(folder, "inpaint")
    given: dict[str, Any] = {**GIVEN, "auto_resize": False}
    own = run(pipe, **given)
    assert torch.equal(own.latents, run(pipe, image_reference=GIVEN["image"], **given).latents)
    assert apart(own, run(pipe, image_reference=picture(2), **given)).latents > 1e-3


@pytest.mark.parametrize("padding", [0, 10])
def test_a_small_place_is_painted_at_full_size(folder: Path, theirs: ReferenceFlux, padding: int) -> None:
    """The reference paints the same crop, and does not put it back. Whole numbers, so pixels are within one of 255."""
    spot = Image.new("L", (96, 96))
    spot.paste(255, (30, 40, 60, 70))
    given: dict[str, Any] = {**GIVEN, "image": picture(1, 96, 96), "mask_image": spot, "padding_mask_crop": padding}
    given["output_type"] = "pil"
    pipe = sf.load(folder, "inpaint")
    (crop,) = theirs.ask("kontext inpaint", _auto_resize=False, **given)
    ours = pipe.remove("put_back")(auto_resize=False, **given).images[0]
    assert np.abs(np.asarray(ours, int) - np.asarray(crop, int)).max() <= 1
    whole = pipe(auto_resize=False, **given).images[0]
    assert whole.size == (96, 96)
    kept = (0, 0, 30, 96)
    assert np.array_equal(np.asarray(whole.crop(kept)), np.asarray(given["image"].crop(kept)))


def test_several_seeds_give_the_pictures_that_each_gives_alone(folder: Path, theirs: ReferenceFlux) -> None:
    pipe = sf.load(folder, "inpaint")
    given: dict[str, Any] = {k: v for k, v in GIVEN.items() if k != "seed"} | {"auto_resize": False}
    both = run(pipe, num_images_per_prompt=2, seed=[3, 4], **given)
    for row, seed in enumerate([3, 4]):
        assert (both.latents[row] - run(pipe, seed=seed, **given).latents[0]).abs().max() < 1e-4


def test_the_tasks_of_both_families_are_one_graph(flux: Load, folder: Path) -> None:
    """As `fill` and `inpaint` are with a checkpoint of Fill."""
    given: dict[str, Any] = {**GIVEN, "auto_resize": False}
    names = [(folder, "inpaint"), (folder, "kontext_inpaint")]
    one, two = (run(sf.load(name, task), **given) for name, task in names)
    assert torch.equal(one.latents, two.latents)
    parts = dict(sf.load(folder).bindings)
    assert torch.equal(run(sf.load("flux", "kontext_inpaint", **parts), **given).latents, one.latents)


def test_a_mask_sends_to_the_task_that_reads_it(folder: Path) -> None:
    given = {**SMALL, "prompt": "a fish", "image": picture(), "mask_image": half()}
    with pytest.raises(
        InputError, match=r"Write pipe\.task\('inpaint'\)\(…, image=…, mask_image=…\)|task\('inpaint'\)"
    ):
        sf.load(folder)(**given)
    auto = sf.load(folder, "auto", manager=fresh())
    done = [event.path for event in auto.stream(**{**GIVEN, "auto_resize": False}) if isinstance(event, BlockFinished)]
    assert "encode_reference" in done
    assert "put_back" in done


def test_another_number_of_references_is_refused(folder: Path) -> None:
    with pytest.raises(Exception, match=r"Got 3 images for 1 prompt\."):
        run(sf.load(folder, "inpaint"), auto_resize=False, image_reference=[picture()] * 3, **GIVEN)
