"""Both autoencoders give the reference's numbers, and a block can hold either."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfumato.components.models.autoencoder_kl import AutoencoderKL
from sfumato.components.models.autoencoder_tiny import AutoencoderTiny
from sfumato.components.models.vae import DiagonalGaussian
from sfumato.graph.errors import ConfigError

TOLERANCE = 1e-5  # float32; measured: no difference

TINY_KL = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 8,
}
KL: dict[str, dict[str, Any]] = {
    "sd": TINY_KL,
    "two layers": {**TINY_KL, "layers_per_block": 2},
    "sd3": {**TINY_KL, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False},
    "without attention": {**TINY_KL, "mid_block_add_attention": False},
    "rare keys": {**TINY_KL, "act_fn": "mish", "in_channels": 4, "out_channels": 5, "sample_size": 64},
}
TINY_TAESD = {
    "encoder_block_out_channels": [8, 8, 8],
    "decoder_block_out_channels": [8, 8, 8],
    "num_encoder_blocks": [1, 2, 1],
    "num_decoder_blocks": [2, 1, 1],
}
TAESD: dict[str, dict[str, Any]] = {
    "taesd": TINY_TAESD,
    "taesd3": {**TINY_TAESD, "latent_channels": 16},
    "rare keys": {**TINY_TAESD, "act_fn": "silu", "upsample_fn": "bilinear", "latent_magnitude": 2, "out_channels": 4},
}
BOTH = [("AutoencoderKL", KL[name]) for name in KL] + [("AutoencoderTiny", TAESD[name]) for name in TAESD]

Make = Callable[[str, dict[str, Any]], tuple[Any, Any]]
Apart = Callable[[Tensor, Tensor], float]


def agree(model: Any, theirs: Any, apart: Apart) -> None:
    image = torch.rand(2, model.config.in_channels, 16, 24) * 2 - 1
    latents = torch.randn(2, model.latent_channels, 4, 6) * 4
    assert apart(model.decode(latents), theirs.decode(latents).sample) < TOLERANCE
    if isinstance(model, AutoencoderTiny):
        assert apart(model.encode(image), theirs.encode(image).latents) < TOLERANCE
    else:
        mine, other = model.encode(image), theirs.encode(image).latent_dist
        assert apart(mine.mean, other.mean) < TOLERANCE
        assert apart(mine.std, other.std) < TOLERANCE
        seeds = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
        assert apart(mine.sample(seeds[0]), other.sample(seeds[1])) < TOLERANCE


@pytest.mark.parametrize(("name", "config"), BOTH)
def test_a_folder_of_the_reference_gives_its_numbers(
    name: str, config: dict[str, Any], read_by_us: Make, apart: Apart
) -> None:
    agree(*read_by_us(name, config), apart)


@pytest.mark.parametrize(("name", "config"), BOTH)
def test_the_reference_reads_our_folder_and_agrees(
    name: str, config: dict[str, Any], read_by_them: Make, apart: Apart
) -> None:
    agree(*read_by_them(name, config), apart)


def test_the_embedded_model_gives_the_references_numbers(emoji: Path, reference: Any, apart: Apart) -> None:
    model = AutoencoderKL.from_pretrained(emoji, subfolder="vae")
    theirs = reference.AutoencoderKL.from_pretrained(emoji, subfolder="vae").eval()
    latents = torch.randn(2, 8, 8, 8)
    assert apart(model.decode(latents), theirs.decode(latents).sample) < TOLERANCE


@pytest.mark.parametrize(
    "config",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, -1.0, 3.0], "latents_std": [1.0, 2.0, 0.5, 4.0]},
    ],
)
def test_scale_and_unscale_undo_each_other(config: dict[str, Any], apart: Apart) -> None:
    vae = AutoencoderKL(**TINY_KL, **config)
    latents = torch.randn(2, 4, 3, 3)
    assert apart(vae.scale(vae.unscale(latents)), latents) < 1e-6


def test_unscaling_is_what_the_published_pipelines_do(apart: Apart) -> None:
    z = torch.randn(2, 4, 3, 3)
    assert torch.equal(AutoencoderKL(**TINY_KL).unscale(z), z / 0.18215)
    flux = AutoencoderKL(**TINY_KL, scaling_factor=0.3611, shift_factor=0.1159)
    assert torch.equal(flux.unscale(z), z / 0.3611 + 0.1159)
    mean, std = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1), torch.tensor([2.0, 3, 4, 5]).view(1, 4, 1, 1)
    playground = AutoencoderKL(
        **TINY_KL, scaling_factor=0.5, latents_mean=(1.0, 2.0, 3.0, 4.0), latents_std=(2.0, 3.0, 4.0, 5.0)
    )
    assert apart(playground.unscale(z), z * std / 0.5 + mean) < 1e-5
    assert torch.equal(AutoencoderTiny(**TINY_TAESD).unscale(z), z)


def test_a_block_can_hold_either() -> None:
    for vae in (AutoencoderKL(**TINY_KL), AutoencoderTiny(**TINY_TAESD)):
        pixels = vae.decode(vae.unscale(torch.randn(1, vae.latent_channels, 2, 3)))
        assert pixels.shape == (1, 3, 2 * vae.scale_factor, 3 * vae.scale_factor)


def test_published_sizes_are_eight_pixels_a_latent() -> None:
    with torch.device("meta"):
        assert AutoencoderTiny().scale_factor == 8
        assert AutoencoderKL(**FULL).scale_factor == 8


def test_a_seed_draws_the_same_latents_again() -> None:
    posterior = DiagonalGaussian(torch.zeros(1, 4, 2, 2), torch.full((1, 4, 2, 2), -2.0))
    draws = [posterior.sample(torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)


def test_names_of_old_checkpoints_are_understood(tmp_path: Path, apart: Apart) -> None:
    vae = AutoencoderKL(**TINY_KL).eval()
    vae.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    old: dict[str, Tensor] = {}
    for name, tensor in load_file(file).items():
        for today, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            if f".{today}.weight" in name:
                tensor = tensor[:, :, None, None].clone()  # as 1x1 convolutions, which older ones still have
            name = name.replace(f".{today}.", f".{before}.")
        old[name] = tensor
    assert any("query" in name for name in old)
    save_file(old, file)
    latents = torch.randn(1, 4, 4, 4)
    assert apart(AutoencoderKL.from_pretrained(tmp_path).decode(latents), vae.decode(latents)) == 0


FULL: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
}


@pytest.mark.parametrize("extra", [{}, {"scaling_factor": 0.13025, "sample_size": 1024}], ids=["sd", "sdxl"])
def test_full_size_models_have_the_published_tensors(extra: dict[str, Any], reference: Any) -> None:
    with torch.device("meta"):
        model = AutoencoderKL(**FULL, **extra)
        theirs = reference.AutoencoderKL(**FULL, **extra)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == 83_653_863


def test_a_config_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"latents_mean .*needs one number for each of 4 latent channels, got 3"):
        AutoencoderKL(**TINY_KL, latents_mean=[0.0] * 3, latents_std=[1.0] * 4)
    with pytest.raises(ConfigError, match=r"latents_mean .*Set both or none"):
        AutoencoderKL(**TINY_KL, latents_mean=[0.0] * 4)
    with pytest.raises(ConfigError, match=r"num_encoder_blocks .*got 1"):
        AutoencoderTiny(**{**TINY_TAESD, "num_encoder_blocks": [1]})
    with pytest.raises(ConfigError, match=r"decoder_block_out_channels .*needs equal numbers"):
        AutoencoderTiny(**{**TINY_TAESD, "decoder_block_out_channels": [8, 8, 16]})
    with pytest.raises(ConfigError, match=r"DownEncoderBlock2D.*Blocks with attention"):
        AutoencoderKL(down_block_types=["AttnDownEncoderBlock2D"])
