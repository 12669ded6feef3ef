"""Published sizes, on meta: from the shapes of a file alone come the published configs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sfumato.components.models as ours
from sfumato.components.loading.single_file.checkpoint import Checkpoint, facts_of
from sfumato.components.loading.single_file.family import family_of
from sfumato.components.loading.single_file.recognition import parts_of
from sfumato.components.loading.single_file.tables import file_tensors, ties
from sfumato.components.loading.single_file.writing import _rows
from sfumato.components.storage.building import on_meta

UNET: dict[str, Any] = {"block_out_channels": (320, 640, 1280, 1280), "in_channels": 4, "out_channels": 4}
LINEAR: dict[str, Any] = {"use_linear_projection": True}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768
}  # fmt: skip
CLIP_G: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
    "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
CLIP_H: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "hidden_act": "gelu",
}  # fmt: skip
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
WIDE_VAE: dict[str, Any] = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
XL: dict[str, Any] = {
    **LINEAR, "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "sample_size": 128,
    "in_channels": 4, "out_channels": 4,
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu",
    "vocab_size": 32128,
}  # fmt: skip

# family -> the models of a published pipeline: class, and what its config says beside the class's defaults
PUBLISHED: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "sd1": {
        "unet": ("UNet2DConditionModel", {**UNET, "cross_attention_dim": 768, "attention_head_dim": 8}),
        "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", CLIP_L),
    },
    "sd2": {
        "unet": (
            "UNet2DConditionModel",
            {**UNET, **LINEAR, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)},
        ),
        "vae": ("AutoencoderKL", VAE),
        "text_encoder": ("CLIPTextModel", CLIP_H),
    },
    "sdxl": {
        "unet": (
            "UNet2DConditionModel",
            {
                **XL, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
                "projection_class_embeddings_input_dim": 2816,
            },
        ),
        "vae": ("AutoencoderKL", {**VAE, "scaling_factor": 0.13025}),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
    },
    "sdxl_refiner": {
        "unet": (
            "UNet2DConditionModel",
            {
                **XL, "block_out_channels": (384, 768, 1536, 1536), "cross_attention_dim": 1280,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                "transformer_layers_per_block": 4, "attention_head_dim": (6, 12, 24, 24),
                "projection_class_embeddings_input_dim": 2560,
            },
        ),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
    },
    "sd3": {
        "transformer": (
            "SD3Transformer2DModel",
            {
                "num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64, "caption_projection_dim": 2432,
                "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
                "qk_norm": "rms_norm", "in_channels": 16, "out_channels": 16, "sample_size": 128,
            },
        ),
        "vae": ("AutoencoderKL", {**WIDE_VAE, "scaling_factor": 1.5305, "shift_factor": 0.0609}),
        "text_encoder": ("CLIPTextModelWithProjection", CLIP_L),
        "text_encoder_2": ("CLIPTextModelWithProjection", CLIP_G),
        "text_encoder_3": ("T5EncoderModel", T5),
    },
    "flux": {
        "transformer": (
            "FluxTransformer2DModel",
            {
                "num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128,
                "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
            },
        ),
        "vae": ("AutoencoderKL", {**WIDE_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}),
        "text_encoder": ("CLIPTextModel", CLIP_L),
        "text_encoder_2": ("T5EncoderModel", T5),
    },
}  # fmt: skip

_UNSEEN = {"_class_name", "architectures", "dtype", "model_type", "initializer_factor", "initializer_range"}


def _shapes(family: str, models: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, model in models.items():
        told = facts_of(family)["models"][name]
        made = ties(model.state_dict(), _rows(told["kind"], model.to_config()), told["prefix"])
        shapes |= {name: tuple(tensor.shape) for name, tensor in file_tensors(model.state_dict(), made).items()}
    return shapes


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_published_configs_come_from_the_shapes_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoint, "predicts_velocity", False)  # the one thing that is told from values
    with on_meta():
        models = {n: getattr(ours, kind)(**config) for n, (kind, config) in PUBLISHED[family].items()}
    shapes = _shapes(family, models)
    parts = tuple(parts_of(shapes))
    assert family_of(parts) == family
    found = Checkpoint(Path("nowhere.safetensors"), shapes, parts, family)
    assert found.models().keys() == models.keys()
    for name, model in models.items():
        wanted = {k: v for k, v in model.to_config().items() if k not in _UNSEEN}
        with on_meta():
            came = type(model).from_config(found.config(name)).to_config()
        wrong = {key: (came[key], value) for key, value in wanted.items() if came[key] != value}
        if not hasattr(model, "text_projection"):
            wrong.pop("projection_dim", None)
        wrong.pop("sample_size", None)  # a default of pictures' size, which an autoencoder has for show
        assert wrong == {}, name
