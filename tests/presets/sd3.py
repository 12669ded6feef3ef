"""Tiny random checkpoints of SD3's kinds, which diffusers made and saved, and its pipelines that read them."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

from sfumato import Graph

from . import checkpoints
from .support import Reference, quiet

TRANSFORMER = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,  # as wide as T5, and wider than both CLIPs together
    "caption_projection_dim": 32,
    "pooled_projection_dim": 24 + 40,
    "pos_embed_max_size": 16,
}
VAE = {**checkpoints.FLOW_VAE, "latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
TEXT = {**checkpoints.TEXT, "num_hidden_layers": 4, "projection_dim": 24}


NONE: Mapping[str, Any] = MappingProxyType({})
SHIFTED: Mapping[str, Any] = MappingProxyType({"shift": 3.0})


class Kind(NamedTuple):
    """What a checkpoint has that the plain one has not: keys of its transformer, scheduler and autoencoder."""

    transformer: Mapping[str, Any] = NONE
    scheduler: Mapping[str, Any] = SHIFTED
    vae: Mapping[str, Any] = NONE
    t5: bool = True


KINDS = {
    "3 medium": Kind(),
    "3.5 medium": Kind({"qk_norm": "rms_norm", "dual_attention_layers": (0, 1), "num_layers": 10}),
    "3.5 large": Kind({"qk_norm": "rms_norm"}),
    "without t5": Kind(t5=False),
    "dynamic": Kind(scheduler={"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}),
    "unshifted": Kind(vae={"shift_factor": 0.0}),
}


class Reference3(Reference):
    """An SD3 pipeline of diffusers."""

    CLASSES: Mapping[str, str] = MappingProxyType(
        {
            "text2image": "StableDiffusion3Pipeline",
            "image2image": "StableDiffusion3Img2ImgPipeline",
            "inpaint": "StableDiffusion3InpaintPipeline",
        }
    )

    def __init__(self, diffusers: Any, folder: Path) -> None:
        self.diffusers = diffusers
        absent = {name: None for name in ("text_encoder_3", "tokenizer_3") if not (folder / name).is_dir()}
        with quiet():
            self.pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, **absent)
        self.config = dict(self.pipe.scheduler.config)

    def settings(self, task: str) -> Mapping[str, bool]:
        return {}


@pytest.fixture(scope="session")
def sd3_checkpoint(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny random checkpoint of one of the `KINDS`."""
    transformers: Any = import_module("transformers")

    def make(name: str) -> Any:
        kind = KINDS[name]
        t5 = transformers.T5EncoderModel(transformers.T5Config(**checkpoints.T5))
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer=diffusers.SD3Transformer2DModel(**{**TRANSFORMER, **kind.transformer}),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**kind.scheduler),
            vae=diffusers.AutoencoderKL(**{**VAE, **kind.vae}),
            text_encoder=checkpoints.clip(TEXT, projection=True),
            tokenizer=checkpoints.clip_tokenizer(),
            text_encoder_2=checkpoints.clip(checkpoints.TEXT_2, projection=True),
            tokenizer_2=checkpoints.clip_tokenizer(pad_token="!"),
            text_encoder_3=t5 if kind.t5 else None,
            tokenizer_3=transformers.T5Tokenizer.from_pretrained(checkpoints.T5_FILES) if kind.t5 else None,
        )
        for parameter in [*pipe.transformer.parameters(), *t5.parameters()]:
            torch.nn.init.normal_(parameter, std=0.12)  # else neither the prompt nor the norms matter
        return pipe

    return checkpoints.saved(tmp_path_factory, make)


@pytest.fixture(scope="session")
def sd3(sd3_checkpoint: Callable[[str], Path]) -> Callable[..., Graph]:
    """Loads a checkpoint with ours."""
    return checkpoints.loaded_by_us(sd3_checkpoint, "3 medium")


@pytest.fixture(scope="session")
def sd3_reference(diffusers: Any, sd3_checkpoint: Callable[[str], Path]) -> Callable[..., Reference3]:
    """Loads a checkpoint with diffusers."""
    return checkpoints.loaded_by_them(diffusers, sd3_checkpoint, Reference3, "3 medium")
