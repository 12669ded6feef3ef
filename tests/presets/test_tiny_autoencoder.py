"""`AutoencoderTiny` in the tasks that encode pictures. It samples nothing, so nothing is drawn for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sfumato as sf
from sfumato import Graph

from .support import Reference, fresh, half, picture, quiet, run, seeded

Same = Callable[..., object]


@pytest.fixture(scope="module")
def tiny_vae(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taesd")
    with seeded(3):
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
        ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler"])
@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_a_tiny_autoencoder_serves_the_tasks_with_pictures_as_in_the_reference(
    diffusers: Any, checkpoint: Callable[[str], Path], tiny_vae: Path, same: Same, task: str, scheduler: str
) -> None:
    pipe = sf.load(checkpoint("sd"), task, manager=fresh(), vae=sf.load_component(tiny_vae, manager=fresh()))
    theirs = Reference(diffusers, checkpoint("sd"))  # one of its own, since its autoencoder is replaced
    with quiet():
        theirs.pipe.register_modules(vae=diffusers.AutoencoderTiny.from_pretrained(tiny_vae))
    values: dict[str, Any] = {"prompt": "a fish", "image": picture(), "num_inference_steps": 4, "strength": 0.8}
    if task == "inpaint":
        values |= {"mask_image": half(), "height": 64, "width": 64}
    same(run(pipe, seed=1, scheduler=scheduler, **values), theirs(task, scheduler=scheduler, seed=1, **values))


def test_a_seed_for_each_picture_draws_nothing_for_a_tiny_autoencoder_either(emoji: Graph) -> None:
    vae = sf.models.AutoencoderTiny(
        latent_channels=8, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4
    ).eval()
    pipe = emoji.task("image2image").bind(vae=vae)
    values: dict[str, Any] = {"prompt": "a fish", "image": picture(), "num_inference_steps": 2}
    both = run(pipe, seed=[1, 2], num_images_per_prompt=2, **values).latents
    for row, seed in enumerate((1, 2)):
        assert (both[row] - run(pipe, seed=seed, **values).latents[0]).abs().max() < 1e-4
    assert torch.isfinite(both).all()
