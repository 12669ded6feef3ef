"""The U-Net without text beside the reference: the same numbers from the same files."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sfumato as sf

TINY: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
DDPM = {  # as the first published models have it
    **TINY, "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
    "norm_eps": 1e-6, "center_input_sample": True, "mid_block_scale_factor": 2,
}  # fmt: skip
LATENT = {**TINY, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "add_attention": False}


@pytest.mark.parametrize("config", [TINY, DDPM, LATENT], ids=["tiny", "ddpm", "latents"])
def test_it_predicts_what_the_reference_predicts(
    read_random: Callable[..., Any], apart: Callable[..., float], config: dict[str, Any]
) -> None:
    ours, theirs = read_random("UNet2DModel", config)
    sample = torch.randn(2, config.get("in_channels", 3), 16, 24)
    for timestep in (7, torch.tensor([3, 900])):
        assert apart(ours(sample, timestep), theirs(sample, timestep).sample) < 1e-4


def test_the_reference_reads_what_we_save(read_by_them: Callable[..., Any], apart: Callable[..., float]) -> None:
    ours, theirs = read_by_them("UNet2DModel", TINY)
    sample = torch.randn(1, 3, 16, 16)
    assert apart(ours(sample, 7), theirs(sample, 7).sample) < 1e-5


def test_models_of_other_kinds_are_refused() -> None:
    with pytest.raises(sf.ConfigError, match=r"time_embedding_type .*Fourier and learned features belong to"):
        sf.models.UNet2DModel(**{**TINY, "time_embedding_type": "fourier"})
    with pytest.raises(sf.ConfigError, match="attention_head_dim  needs to divide 16 channels, got 5"):
        sf.models.UNet2DModel(**{**TINY, "attention_head_dim": 5})
    with pytest.raises(sf.ConfigError, match="up_block_types  needs 2 entries, as block_out_channels has, got 1"):
        sf.models.UNet2DModel(**{**TINY, "up_block_types": ("UpBlock2D",)})
