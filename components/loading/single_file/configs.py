"""Derive the configs of a file's models from the shapes of its tensors. Other keys are in `families/`."""

import math
from collections.abc import Mapping
from typing import Any

from ...storage.tensors import Shape
from .parts import Part, number_after, open_clip_layers

Shapes = Mapping[str, Shape]
Config = dict[str, Any]  # a config.json


def config_of(part: Part, base: Mapping[str, Any]) -> Config:
    """The config of a model: the keys of `base`, which its family fixes, and those that follow from its shapes."""
    shapes = part.original
    match part.kind:
        case "unet" | "controlnet":
            derived = _unet(shapes, base)
        case "vae":
            derived = _vae(shapes)
        case "flux":
            derived = _flux(shapes)
        case "sd3":
            derived = _sd3(shapes)
        case "clip":
            derived = _clip(shapes)
        case "open_clip":
            derived = _open_clip(shapes)
        case "t5":
            derived = _t5(shapes)
    return {**{key: value for key, value in base.items() if key != "head_size"}, **derived}


def _unet(shapes: Shapes, base: Mapping[str, Any]) -> Config:
    """A level ends where the down path halves the size. A level has attention if it reads text."""
    channels, depths, layers = _levels(shapes)
    middle = _depth(shapes, "middle_block.1.")
    per_level = [depth or 1 for depth in depths[:-1]] + [depths[-1] or middle]
    mapped = next((s for n, s in shapes.items() if n.endswith("attn2.to_k.weight")), (0, 0))
    config: Config = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "cross_attention_dim": mapped[1],
        "transformer_layers_per_block": per_level if {*depths, middle} - {0, middle} else middle,
        "use_linear_projection": len(shapes.get("middle_block.1.proj_in.weight", ())) == 2,
    }
    if "out.2.weight" in shapes:
        config["out_channels"] = shapes["out.2.weight"][0]
        config["up_block_types"] = ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)]
    if "label_emb.0.0.weight" in shapes:
        config["addition_embed_type"] = "text_time"
        config["projection_class_embeddings_input_dim"] = shapes["label_emb.0.0.weight"][1]
    if (size := base.get("head_size")) is not None:
        config["attention_head_dim"] = [max(1, count // size) for count in channels]  # the published key counts heads
    if "input_hint_block.0.weight" in shapes:
        hints = sorted({number_after(n, "input_hint_block.") for n in shapes} - {-1})
        widths = [shapes[f"input_hint_block.{n}.weight"][0] for n in hints[:-1]]
        config["conditioning_embedding_out_channels"] = widths[::2]
        config["conditioning_channels"] = shapes["input_hint_block.0.weight"][1]
    return config


def _levels(shapes: Shapes) -> tuple[list[int], list[int], int]:
    """The channels and the depth of the attention (0 for none) of each level, and its number of layers."""
    channels: list[int] = []
    depths: list[int] = []
    layers = count = 0
    first = True
    for number in range(1, 1 + max(number_after(name, "input_blocks.") for name in shapes)):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            first = True
            continue
        if first:
            channels.append(shapes[f"input_blocks.{number}.0.out_layers.3.weight"][0])
            depths.append(_depth(shapes, f"input_blocks.{number}.1."))
            first, count = False, 0
        count += 1
        layers = max(layers, count)
    return channels, depths, layers


def _depth(shapes: Shapes, head: str) -> int:
    return 1 + max((number_after(name, f"{head}transformer_blocks.") for name in shapes), default=-1)


def _vae(shapes: Shapes) -> Config:
    levels = 1 + max(number_after(name, "encoder.down.") for name in shapes)
    return {
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{n}.block.0.conv2.weight"][0] for n in range(levels)],
        "layers_per_block": 1 + max(number_after(name, "encoder.down.0.block.") for name in shapes),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }


def _clip(shapes: Shapes) -> Config:
    width = shapes["text_model.embeddings.token_embedding.weight"][1]
    return {
        "hidden_size": width,
        "vocab_size": shapes["text_model.embeddings.token_embedding.weight"][0],
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": 1 + max(number_after(name, "text_model.encoder.layers.") for name in shapes),
        "num_attention_heads": max(1, width // 64),
        "projection_dim": shapes.get("text_projection.weight", (width,))[0],
    }


def _open_clip(shapes: Shapes) -> Config:
    width = shapes["token_embedding.weight"][1]
    return {
        "hidden_size": width,
        "vocab_size": shapes["token_embedding.weight"][0],
        "max_position_embeddings": shapes["positional_embedding"][0],
        "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
        "num_hidden_layers": open_clip_layers(shapes),
        "num_attention_heads": max(1, width // 64),
        "projection_dim": shapes.get("text_projection", (width, width))[1],
    }


def _t5(shapes: Shapes) -> Config:
    table = next(s for n in ("shared.weight", "encoder.embed_tokens.weight") if (s := shapes.get(n)) is not None)
    first = "encoder.block.0.layer"
    return {
        "d_model": table[1],
        "vocab_size": table[0],
        "d_ff": shapes[f"{first}.1.DenseReluDense.wo.weight"][1],
        "num_layers": 1 + max(number_after(name, "encoder.block.") for name in shapes),
        "feed_forward_proj": "gated-gelu" if f"{first}.1.DenseReluDense.wi_0.weight" in shapes else "relu",
        "num_heads": shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"][1],
        "d_kv": shapes[f"{first}.0.SelfAttention.q.weight"][0]
        // shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"][1],
        "relative_attention_num_buckets": shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"][0],
    }


def _flux(shapes: Shapes) -> Config:
    head = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    inputs, outputs = shapes["img_in.weight"][1], shapes["final_layer.linear.weight"][0]
    return {
        "in_channels": inputs,
        "out_channels": outputs if outputs != inputs else None,
        "num_layers": 1 + max(number_after(name, "double_blocks.") for name in shapes),
        "num_single_layers": 1 + max(number_after(name, "single_blocks.") for name in shapes),
        "attention_head_dim": head,
        "num_attention_heads": shapes["img_in.weight"][0] // head,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }


def _sd3(shapes: Shapes) -> Config:
    width, inputs, patch, _ = shapes["x_embedder.proj.weight"]
    count = 1 + max(number_after(name, "joint_blocks.") for name in shapes)
    normed = "joint_blocks.0.x_block.attn.ln_q.weight"
    head = shapes[normed][0] if normed in shapes else 64
    return {
        "in_channels": inputs,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "patch_size": patch,
        "num_layers": count,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed"][1]),
        "qk_norm": "rms_norm" if normed in shapes else None,
        "dual_attention_layers": [n for n in range(count) if f"joint_blocks.{n}.x_block.attn2.qkv.weight" in shapes],
    }
