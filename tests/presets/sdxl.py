"""Tiny random checkpoints of SDXL's kinds, which diffusers made and saved, and its pipelines that read them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato import Graph

from . import checkpoints
from .support import Reference, quiet

UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 80,  # 32 + 48, as wide as both text encoders
    "attention_head_dim": (2, 4),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 40 + 6 * 8,
}
VAE = {**checkpoints.VAE, "scaling_factor": 0.13025}
TEXT = {**checkpoints.TEXT, "num_hidden_layers": 4}
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,  # stated for the schedulers that a test swaps in, as in published folders
    "set_alpha_to_one": False,
}


@dataclass(frozen=True)
class Kind:
    """What a checkpoint has that the base has not: keys of its U-Net, its pipeline's class and plain keys, parts."""

    unet: dict[str, Any] = field(default_factory=dict[str, Any])
    pipeline: str = "StableDiffusionXLPipeline"
    keys: dict[str, bool] = field(default_factory=dict[str, bool])
    scheduler: str = "EulerDiscreteScheduler"
    alone: bool = False
    """Without the first text encoder."""


REFINER: dict[str, Any] = {"cross_attention_dim": 48, "projection_class_embeddings_input_dim": 40 + 5 * 8}
KINDS = {
    "base": Kind(),
    "zeros off": Kind(keys={"force_zeros_for_empty_prompt": False}),
    "inpainting": Kind({"in_channels": 9}, "StableDiffusionXLInpaintPipeline"),
    "refiner": Kind(
        REFINER,
        "StableDiffusionXLImg2ImgPipeline",
        {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True},
        alone=True,
    ),
    "lcm": Kind({"time_cond_proj_dim": 12}, scheduler="LCMScheduler"),
}


class ReferenceXL(Reference):
    """An SDXL pipeline of diffusers."""

    CLASSES = {  # noqa: RUF012  as its base has it
        "text2image": "StableDiffusionXLPipeline",
        "image2image": "StableDiffusionXLImg2ImgPipeline",
        "inpaint": "StableDiffusionXLInpaintPipeline",
    }

    def __init__(self, diffusers: Any, folder: Path, keys: dict[str, bool]) -> None:
        self.diffusers, self.keys = diffusers, keys
        with quiet():
            self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        self.config = dict(self.pipe.scheduler.config)

    def settings(self, task: str) -> Mapping[str, bool]:
        keys = {k: v for k, v in self.keys.items() if task != "text2image" or k != "requires_aesthetics_score"}
        return {**keys, "add_watermarker": False}


@pytest.fixture(scope="session")
def xl_checkpoint(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint of one of the `KINDS`."""

    def make(name: str) -> Any:
        kind = KINDS[name]
        tokenizer, tokenizer_2 = checkpoints.clip_tokenizer(), checkpoints.clip_tokenizer(pad_token="!")
        text = checkpoints.clip(TEXT)
        text_2 = checkpoints.clip(checkpoints.TEXT_2, projection=True)
        return getattr(diffusers, kind.pipeline)(
            vae=diffusers.AutoencoderKL(**VAE),
            unet=diffusers.UNet2DConditionModel(**{**UNET, **kind.unet}),
            text_encoder=None if kind.alone else text,
            tokenizer=None if kind.alone else tokenizer,
            text_encoder_2=text_2,
            tokenizer_2=tokenizer_2,
            scheduler=getattr(diffusers, kind.scheduler).from_config(NOISE),
            add_watermarker=False,
            **kind.keys,
        )

    return checkpoints.saved(tmp_path_factory, make)


@pytest.fixture(scope="session")
def xl(xl_checkpoint: Callable[[str], Path]) -> Callable[..., Graph]:
    """Loads a checkpoint with ours."""
    return checkpoints.loaded_by_us(xl_checkpoint, "base")


@pytest.fixture(scope="session")
def xl_reference(diffusers: Any, xl_checkpoint: Callable[[str], Path]) -> Callable[[str], ReferenceXL]:
    """Loads a checkpoint with diffusers."""

    @cache
    def load(name: str = "base") -> ReferenceXL:
        return ReferenceXL(diffusers, xl_checkpoint(name), KINDS[name].keys)

    return load
