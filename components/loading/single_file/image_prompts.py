"""IP-Adapters of transformers, and image encoders, in one file: their configs by shapes, and XLabs' names."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from .sizes import Sizes
from .tables import Row, table

_HEAD = 64
"""The width of one head of the perceiver's attention, which shapes do not tell."""

_XLABS = """
    image_proj               ip_adapter_proj_model
    ip_adapter.{i}.to_k_ip   double_blocks.{i}.processor.ip_adapter_double_stream_k_proj
    ip_adapter.{i}.to_v_ip   double_blocks.{i}.processor.ip_adapter_double_stream_v_proj
"""


def xlabs(count: int) -> tuple[Row, ...]:
    """`FluxImagePromptAdapter` under the names of Flux's own blocks, for that many of them."""
    return table(_XLABS, count)


def flux_ip_adapter(sizes: Sizes, base: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `FluxImagePromptAdapter`. The first version has 4 tokens, the second 16."""
    rows, features = sizes.of("image_proj.proj.weight", 2)
    (token,) = sizes.of("image_proj.norm.weight", 1)
    return {
        "image_width": features,
        "num_tokens": max(1, rows // token),
        "token_dim": token,
        "width": sizes.of("ip_adapter.0.to_k_ip.weight", 2)[0],
        "num_layers": sizes.count("ip_adapter."),
    }


def sd3_ip_adapter(sizes: Sizes, base: Mapping[str, Any]) -> dict[str, Any]:
    """The config of an `SD3ImagePromptAdapter`."""
    hidden, features = sizes.of("image_proj.proj_in.weight", 2)
    return {
        "image_width": features,
        "hidden_dim": hidden,
        "num_attention_heads": max(1, sizes.of("image_proj.layers.0.0.to_q.weight", 2)[0] // _HEAD),
        "depth": sizes.count("image_proj.layers."),
        "time_dim": sizes.of("image_proj.time_embedding.linear_1.weight", 2)[1],
        "num_tokens": sizes.of("image_proj.latents", 3)[1],
        "width": sizes.of("image_proj.proj_out.weight", 2)[0],
        "attention_head_dim": sizes.of("ip_adapter.0.norm_q.weight", 1)[0],
        "num_layers": sizes.count("ip_adapter."),
    }


def clip_vision(sizes: Sizes, base: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a `CLIPVisionModelWithProjection`.

    Shapes do not tell the heads. The published ViT-L, ViT-H and ViT-bigG have 16, ViT-B has 12.
    """
    head = "vision_model."
    width, channels, patch, _ = sizes.of(f"{head}embeddings.patch_embedding.weight", 4)
    positions = sizes.of(f"{head}embeddings.position_embedding.weight", 2)[0]
    projected = sizes.of("visual_projection.weight", 2)[0]
    return {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": isqrt(max(1, positions - 1)) * patch,
        "intermediate_size": sizes.of(f"{head}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": sizes.count(f"{head}encoder.layers."),
        "num_attention_heads": 12 if width == 768 else 16,
        "projection_dim": projected,
        # OpenAI's encoders have at most 768 channels here, OpenCLIP's have more.
        "hidden_act": "quick_gelu" if projected <= 768 else "gelu",
    }
