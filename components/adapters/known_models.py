"""The matrices of the models that adapters change: of a graph, and of the published families."""

from collections.abc import Iterator, Mapping
from typing import Any

from ...graph.errors import ConfigError
from ...registry import models
from .names import DENOISERS, Config, ModelNames, names_of
from .over import config_of, type_of
from .patch_set import PatchSet
from .placing import Placement, place


def names_in(bindings: Mapping[str, Any]) -> dict[str, ModelNames]:  # any objects that a graph binds
    """The matrices of all components that adapters may change, by component."""
    found: dict[str, ModelNames] = {}
    for name, value in bindings.items():
        if name in DENOISERS or name.startswith("text_encoder"):
            kind = type_of(value)
            if kind is not None and models.find(kind.__name__) is kind:
                found[name] = names_of(kind.__name__, config_of(value))
    return found


_CLIP_L: Config = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "projection_dim": 768,
}  # fmt: skip
_CLIP_H: Config = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "projection_dim": 512,
}  # fmt: skip
_CLIP_G: Config = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280,
}  # fmt: skip
_T5_XXL: Config = {
    "d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
_SDXL: Config = {
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
_SD3: Config = {
    "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "in_channels": 16, "out_channels": 16,
    "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192, "sample_size": 128, "patch_size": 2,
}  # fmt: skip
_SD35 = {"qk_norm": "rms_norm"}
_UNET, _FLUX, _PIXART = "UNet2DConditionModel", "FluxTransformer2DModel", "PixArtTransformer2DModel"
_CLIP, _PROJECTING_CLIP, _T5 = "CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"
_TOWERS_SD3 = {
    "text_encoder": (_PROJECTING_CLIP, _CLIP_L), "text_encoder_2": (_PROJECTING_CLIP, _CLIP_G),
    "text_encoder_3": (_T5, _T5_XXL),
}  # fmt: skip
_FAMILIES: Mapping[str, Mapping[str, tuple[str, Config]]] = {
    "Stable Diffusion 1": {
        "unet": (_UNET, {"cross_attention_dim": 768, "attention_head_dim": 8}), "text_encoder": (_CLIP, _CLIP_L),
    },
    "Stable Diffusion 2": {
        "unet": (_UNET, {
            "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
        }),
        "text_encoder": (_CLIP, _CLIP_H),
    },
    "SDXL": {
        "unet": (_UNET, _SDXL), "text_encoder": (_CLIP, _CLIP_L),
        "text_encoder_2": (_PROJECTING_CLIP, _CLIP_G),
    },
    "Flux": {
        "transformer": (_FLUX, {"num_layers": 19, "num_single_layers": 38, "guidance_embeds": True, "in_channels": 64}),
        "text_encoder": (_CLIP, _CLIP_L), "text_encoder_2": (_T5, _T5_XXL),
    },
    "Stable Diffusion 3": {"transformer": ("SD3Transformer2DModel", _SD3), **_TOWERS_SD3},
    "Stable Diffusion 3.5 medium": {
        "transformer": ("SD3Transformer2DModel", {
            **_SD3, **_SD35, "pos_embed_max_size": 384, "dual_attention_layers": list(range(13)),
        }),
        **_TOWERS_SD3,
    },
    "Stable Diffusion 3.5 large": {
        "transformer": ("SD3Transformer2DModel", {
            **_SD3, **_SD35, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
        }),
        **_TOWERS_SD3,
    },
    "PixArt": {"transformer": (_PIXART, {"sample_size": 128}), "text_encoder": (_T5, _T5_XXL)},
}  # fmt: skip
"""The models of the published families, as far as their matrices need it."""


def published_configs(family: str) -> Mapping[str, Config]:
    """The keys of the models' configs of a published family that set the shapes of their weights, by component."""
    return {component: config for component, (_, config) in _FAMILIES[family].items()}


def place_published(content: PatchSet, name: str) -> tuple[Placement, Mapping[str, ModelNames]]:
    """Find the matrices of patches in the first published family that has all of them.

    Raises:
        ConfigError: no family has.
    """
    for known in _published():
        try:
            placement = place(content, known, name)
        except ConfigError:
            continue
        if not placement.absent:
            return placement, known
    raise ConfigError(
        f"The adapter {name!r} ({content.source}) fits no published family ({', '.join(_FAMILIES)}). "
        "Pass pipe=, the graph that it was trained for."
    )


def _published() -> Iterator[Mapping[str, ModelNames]]:
    for parts in _FAMILIES.values():
        yield {component: names_of(*part) for component, part in parts.items()}
