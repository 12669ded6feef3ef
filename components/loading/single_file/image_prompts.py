"""IP-Adapters of transformers in one file: their configs by shapes, and XLabs' names of tensors."""

from collections.abc import Mapping
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
