"""Models without text: a folder of diffusers draws the same pictures with our graph."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sfumato as sf
from sfumato.presets.ddpm import unconditional

from .support import quiet, seeded

UNET: dict[str, Any] = {
    "sample_size": 16, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["DDPM", "DDIM"])
def test_a_folder_of_diffusers_draws_its_pictures(diffusers: Any, tmp_path: Path, name: str) -> None:
    with seeded(0):
        unet, scheduler = diffusers.UNet2DModel(**UNET), getattr(diffusers, f"{name}Scheduler")()
        theirs = getattr(diffusers, f"{name}Pipeline")(unet=unet, scheduler=scheduler)
        theirs.save_pretrained(tmp_path)
        theirs.set_progress_bar_config(disable=True)
    pipe = sf.load(tmp_path, graph=unconditional(16))
    ours = pipe(num_images_per_prompt=2, seed=7, num_inference_steps=4, output_type="np").images
    with quiet():
        generator = torch.Generator().manual_seed(7)
        expected = theirs(batch_size=2, generator=generator, num_inference_steps=4, output_type="np").images
    assert np.abs(ours - expected).max() < 1e-4


def test_a_model_without_text_is_called_without_a_prompt() -> None:
    pipe = unconditional(16).bind(unet=sf.models.UNet2DModel(**UNET), scheduler=sf.schedulers.DDIMScheduler())
    assert pipe(seed=1, num_inference_steps=2).images[0].size == (16, 16)
    with pytest.raises(sf.InputError, match="prompt"):
        pipe(prompt="a fox")
