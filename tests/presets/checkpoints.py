"""What the tiny random checkpoints of all families share: configs, and making, saving and loading them."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

import sfumato as sf
from sfumato import Graph

from .support import EMBEDDED, Reference, seeded

R = TypeVar("R", bound=Reference)
T5_FILES = Path(__file__).parents[1] / "files" / "t5"

VAE: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
FLOW_VAE: dict[str, Any] = {**VAE, "use_quant_conv": False, "use_post_quant_conv": False}
"""An autoencoder as SD3 and Flux have it, still without its channels, scale and shift."""
TEXT: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "bos_token_id": 2046,
    "eos_token_id": 2047,
    "pad_token_id": 2047,
}
"""CLIP's text encoder."""
TEXT_2: dict[str, Any] = {**TEXT, "hidden_size": 48, "projection_dim": 40, "hidden_act": "gelu"}
"""The second one of SDXL and SD3."""
T5: dict[str, Any] = {
    "vocab_size": 512,
    "d_model": 96,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
}


def clip_tokenizer(**keys: Any) -> Any:
    """The tokenizer of the embedded model, as transformers reads it."""
    transformers: Any = import_module("transformers")
    return transformers.CLIPTokenizer.from_pretrained(EMBEDDED / "tokenizer", **keys)


def clip(config: dict[str, Any], *, projection: bool = False) -> Any:
    """A text encoder of CLIP with random weights."""
    transformers: Any = import_module("transformers")
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return kind(transformers.CLIPTextConfig(**config))


def saved(temporary: pytest.TempPathFactory, make: Callable[[str], Any]) -> Callable[[str], Path]:
    """Gives the folder of the pipeline that `make` makes of a name, with the same random weights in every run."""

    @cache
    def save(name: str) -> Path:
        with seeded(0):
            pipe = make(name)
            folder = temporary.mktemp(name.replace(" ", "-"))
            pipe.save_pretrained(folder)
        return folder

    return save


class Load(Protocol):
    """Loads a checkpoint by its name."""

    def __call__(self, name: str = ..., task: str = ..., **swaps: Any) -> Graph: ...


def loaded_by_us(folder: Callable[[str], Path], default: str) -> Load:
    """Loads checkpoints with sfumato."""

    def load(name: str = default, task: str = "text2image", **swaps: Any) -> Graph:
        return sf.load(folder(name), task, **swaps)

    return load


def loaded_by_them(diffusers: Any, folder: Callable[[str], Path], kind: type[R], default: str) -> Callable[..., R]:
    """Loads checkpoints with diffusers, each once."""

    @cache
    def load(name: str = default) -> R:
        return kind(diffusers, folder(name))

    return load
