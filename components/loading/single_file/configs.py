"""Derive the configs of a file's models from the shapes of its tensors. Other keys are in `families/`."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

from ....graph.errors import LoadError
from .image_prompts import clip_vision, flux_ip_adapter, sd3_ip_adapter
from .parts import Kind, Part, open_clip_layers
from .sizes import Sizes, number_after

Config = dict[str, Any]  # a config.json
_HEAD = 64
"""The width of one head of attention in CLIP, SD 3, SD 2 and SDXL, whose shapes do not tell it."""


def config_of(part: Part, base: Mapping[str, Any]) -> Config:
    """The config of a model: the keys of `base`, which its family fixes, and those that follow from its shapes.

    Raises:
        LoadError: a tensor that the config is derived from is missing or has another form.
    """
    derived = _DERIVED[part.kind](Sizes(part.original), base)
    return {**{key: value for key, value in base.items() if key != "head_size"}, **derived}


def context_width(part: Part) -> int:
    """The width of the prompt that a U-Net or a control net of one reads; 0 for one that reads none."""
    mapped = Sizes(part.original).ending("attn2.to_k.weight", 2)
    return mapped[1] if mapped else 0


def _unet(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    """A level ends where the down path halves the size. A level has attention if it has transformer blocks."""
    channels, depths = _levels(sizes)
    middle = _depth(sizes, "middle_block.1.")
    layers = [len(level) for level in depths]
    mapped = sizes.ending("attn2.to_k.weight", 2)
    config: Config = {
        "in_channels": sizes.of("input_blocks.0.0.weight", 4)[1],
        "block_out_channels": channels,
        "layers_per_block": _same(layers),
        "down_block_types": ["CrossAttnDownBlock2D" if any(level) else "DownBlock2D" for level in depths],
        "transformer_layers_per_block": _transformer_layers(depths, middle),
        "use_linear_projection": _linear(sizes),
    }
    if mapped is not None:
        config["cross_attention_dim"] = mapped[1]
    if "middle_block.0.in_layers.0.weight" not in sizes:
        config["mid_block_type"] = None
    elif not middle:
        config["mid_block_type"] = "UNetMidBlock2D"
    if "out.2.weight" in sizes:
        config["out_channels"] = sizes.of("out.2.weight", 4)[0]
        up = _up_depths(sizes, layers)
        config["up_block_types"] = ["CrossAttnUpBlock2D" if any(level) else "UpBlock2D" for level in up]
        if any(set(level) != {down[0]} for level, down in zip(up, reversed(depths), strict=True)):
            config["reverse_transformer_layers_per_block"] = [_depth_of(level) for level in up]
    if "label_emb.0.0.weight" in sizes:
        config["addition_embed_type"] = "text_time"
        config["projection_class_embeddings_input_dim"] = sizes.of("label_emb.0.0.weight", 2)[1]
    if (size := base.get("head_size")) is not None:
        config["attention_head_dim"] = [max(1, count // size) for count in channels]  # the published key counts heads
    return config


def _lone_unet(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    """A U-Net or control net outside a family. SD 1 has 8 heads in each layer; the others have heads of one width."""
    config = _unet(sizes, base)
    if base.keys() & {"attention_head_dim", "head_size"}:
        return config
    if "addition_embed_type" in config:  # SDXL's
        config = {"cross_attention_dim": 2048, **config, "addition_time_embed_dim": 256}
    elif config.get("cross_attention_dim", 768) == 768:
        return config
    channels = cast("list[int]", config["block_out_channels"])
    return {**config, "attention_head_dim": [max(1, count // _HEAD) for count in channels]}


def _levels(sizes: Sizes) -> tuple[list[int], list[list[int]]]:
    """The channels of each level, and for each of its layers the depth of the attention, 0 for none."""
    channels: list[int] = []
    depths: list[list[int]] = []
    first = True
    for number in range(1, sizes.count("input_blocks.")):
        if f"input_blocks.{number}.0.op.weight" in sizes:
            first = True
            continue
        if first:
            channels.append(sizes.of(f"input_blocks.{number}.0.out_layers.3.weight", 4)[0])
            depths.append([])
            first = False
        depths[-1].append(_depth(sizes, f"input_blocks.{number}.1."))
    if not channels:
        raise LoadError("it lacks input_blocks.1.0.out_layers.3.weight")
    return channels, depths


def _up_depths(sizes: Sizes, layers: Sequence[int]) -> list[list[int]]:
    """The depths on the way up, where each level has one more layer."""
    numbers = iter(range(sum(layers) + len(layers)))
    return [[_depth(sizes, f"output_blocks.{next(numbers)}.1.") for _ in range(n + 1)] for n in reversed(layers)]


def _transformer_layers(depths: Sequence[Sequence[int]], middle: int) -> Any:  # a number or a list
    """The published key. A level without attention has 1; the last entry is the depth of the middle too."""
    used = {depth for level in depths for depth in level} - {0}
    if used <= {middle or next(iter(used), 0)}:
        return middle or next(iter(used), 1)
    *before, last = [_depth_of(level) for level in depths]
    return [*before, last if any(depths[-1]) else middle or 1]


def _depth_of(level: Sequence[int]) -> Any:  # a number, or a list where the layers differ
    return _same([depth or 1 for depth in level])


def _same(values: list[int]) -> Any:  # a number, or the list where its entries differ
    return values[0] if len(set(values)) == 1 else values


def _depth(sizes: Sizes, head: str) -> int:
    return sizes.count(f"{head}transformer_blocks.")


def _linear(sizes: Sizes) -> bool:
    """Whether attention is entered through a matrix, and not through a 1x1 convolution."""
    name = next((name for name in sizes.shapes if name.endswith(".proj_in.weight")), None)
    return name is not None and len(sizes.shapes[name]) == 2


def _controlnet(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    config = _lone_unet(sizes, base)
    hints = sorted({number_after(name, "input_hint_block.") for name in sizes.shapes} - {-1})
    widths = [sizes.of(f"input_hint_block.{n}.weight", 4)[0] for n in hints[:-1]]
    config["conditioning_embedding_out_channels"] = widths[::2]
    config["conditioning_channels"] = sizes.of("input_hint_block.0.weight", 4)[1]
    return config


def _controlnet_union(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    config = _controlnet(sizes, base)
    config.pop("mid_block_type", None)
    kinds, width = sizes.of("task_embedding", 2)
    return {
        **config,
        "num_control_type": kinds,
        "num_trans_channel": width,
        "num_trans_layer": sizes.count("transformer_layes."),  # published with this spelling
        "num_proj_channel": sizes.of("spatial_ch_projs.weight", 2)[0],
        "addition_time_embed_dim": sizes.of("control_add_embedding.linear_1.weight", 2)[1] // kinds,
    }


def _vae(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    levels, latents = sizes.count("encoder.down."), sizes.of("decoder.conv_in.weight", 4)[1]
    for name, rows in (("quant_conv.weight", 2 * latents), ("encoder.conv_out.weight", 2 * latents)):
        if name in sizes and sizes.of(name, 4)[0] != rows:
            raise LoadError(f"its {name} has {sizes.of(name, 4)[0]} rows, and a mean and a variance of {latents} "
                            f"channels take {rows}")  # fmt: skip
    # Flux's numbers, and SD's. Stable Diffusion 3's autoencoder has the shapes of Flux's, and SDXL's those of SD's.
    flux: Config = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": True}
    return {
        **(flux if latents == 16 and "scaling_factor" not in base else {}),
        "in_channels": sizes.of("encoder.conv_in.weight", 4)[1],
        "out_channels": sizes.of("decoder.conv_out.weight", 4)[0],
        "latent_channels": latents,
        "block_out_channels": [sizes.of(f"encoder.down.{n}.block.0.conv2.weight", 4)[0] for n in range(levels)],
        "layers_per_block": sizes.count("encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_quant_conv": "quant_conv.weight" in sizes,
        "use_post_quant_conv": "post_quant_conv.weight" in sizes,
    }


def _tiny_vae(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    config: Config = {}
    for half in ("encoder", "decoder"):
        head = f"{half}.layers."
        convolutions = [n for n in range(sizes.count(head)) if f"{head}{n}.weight" in sizes]
        blocks = {number_after(name, head) for name in sizes.shapes if ".conv.0." in name}
        counts = [len([n for n in blocks if a < n < b]) for a, b in pairwise(convolutions)]
        if not convolutions:
            raise LoadError(f"it lacks {head}0.weight")
        first, last = (sizes.of(f"{head}{n}.weight", 4) for n in (convolutions[0], convolutions[-1]))
        config[f"num_{half}_blocks"] = counts
        config[f"{half}_block_out_channels"] = [first[0]] * len(counts)
        config["in_channels" if half == "encoder" else "out_channels"] = first[1] if half == "encoder" else last[0]
    return {**config, "latent_channels": sizes.of("decoder.layers.0.weight", 4)[1]}


def _t2i_adapter(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    levels, body = sizes.count("adapter.body."), "adapter.body."
    light = "adapter.conv_in.weight" not in sizes
    entry = sizes.of(f"{body}0.in_conv.weight" if light else "adapter.conv_in.weight", 4)[1]
    if light:
        channels = [sizes.of(f"{body}{n}.out_conv.weight", 4)[0] for n in range(levels - 1)]
    else:
        channels = [sizes.of(f"{body}{n}.resnets.0.block1.weight", 4)[0] for n in range(levels)]
    # Squares of pixels enter as channels. SDXL's adapters take squares of 16 pixels, all others of 8.
    factor = 16 if entry % 256 == 0 else 8
    full = "full_adapter_xl" if factor == 16 else "full_adapter"
    return {
        "adapter_type": "light_adapter" if light else full,
        "channels": channels,
        "in_channels": max(1, entry // factor**2),
        "downscale_factor": factor,
        "num_res_blocks": sizes.count(f"{body}0.resnets."),
    }


def _ip_adapter(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    """The projector by its tensors, the attention by its matrices."""
    head = "image_proj."
    attention = range(1, sizes.count("ip_adapter."), 2)
    keys = [sizes.of(f"ip_adapter.{n}.to_k_ip.weight", 2) for n in attention]
    width = keys[0][1]
    lora = "ip_adapter.0.to_q_lora.down.weight"
    config: Config = {
        "token_width": width,
        "channels": [rows for rows, _ in keys],
        "lora_rank": sizes.of(lora, 2)[0] if lora in sizes else 0,
    }
    if f"{head}proj.weight" in sizes:
        rows, image = sizes.of(f"{head}proj.weight", 2)
        return {**config, "projector": "linear", "image_width": image, "tokens": rows // width}
    if f"{head}proj.3.weight" in sizes:
        inner, image = sizes.of(f"{head}proj.0.weight", 2)
        return {**config, "projector": "full", "image_width": image, "inner_width": inner}
    if f"{head}proj.0.weight" in sizes:
        inner, face = sizes.of(f"{head}proj.0.weight", 2)
        tokens = sizes.of(f"{head}proj.2.weight", 2)[0] // width
        faces = {**config, "projector": "face", "face_width": face, "inner_width": inner, "tokens": tokens}
        resampler = f"{head}perceiver_resampler."
        if f"{resampler}proj_in.weight" not in sizes:
            return faces
        return {**faces, "projector": "face_perceiver", **_resampler(sizes, resampler)}
    _, tokens, inner = sizes.of(f"{head}latents", 3)
    return {**config, "projector": "perceiver", "inner_width": inner, "tokens": tokens, **_resampler(sizes, head)}


def _resampler(sizes: Sizes, head: str) -> Config:
    return {
        "image_width": sizes.of(f"{head}proj_in.weight", 2)[1],
        "layers": sizes.count(f"{head}layers."),
        "heads": max(1, sizes.of(f"{head}layers.0.0.to_q.weight", 2)[0] // _HEAD),
    }


def _clip(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    words, width = sizes.of("text_model.embeddings.token_embedding.weight", 2)
    projection = "text_projection.weight"
    return {
        "hidden_size": width,
        "vocab_size": words,
        "max_position_embeddings": sizes.of("text_model.embeddings.position_embedding.weight", 2)[0],
        "intermediate_size": sizes.of("text_model.encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": sizes.count("text_model.encoder.layers."),
        "num_attention_heads": max(1, width // _HEAD),
        "projection_dim": sizes.of(projection, 2)[0] if projection in sizes else width,
        # OpenAI's towers have at most 768 channels, OpenCLIP's have more.
        **({} if "hidden_act" in base else {"hidden_act": "quick_gelu" if width <= 768 else "gelu"}),
    }


def _open_clip(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    words, width = sizes.of("token_embedding.weight", 2)
    if "text_projection.weight" in sizes:
        projected = sizes.of("text_projection.weight", 2)[0]
    else:
        projected = sizes.of("text_projection", 2)[1] if "text_projection" in sizes else width
    return {
        "hidden_size": width,
        "vocab_size": words,
        "max_position_embeddings": sizes.of("positional_embedding", 2)[0],
        "intermediate_size": sizes.of("transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
        "num_hidden_layers": open_clip_layers(sizes.shapes),
        "num_attention_heads": max(1, width // _HEAD),
        "projection_dim": projected,
        **({} if "hidden_act" in base else {"hidden_act": "gelu"}),
    }


def _t5(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    table = sizes.of("shared.weight" if "shared.weight" in sizes else "encoder.embed_tokens.weight", 2)
    first = "encoder.block.0.layer"
    buckets, heads = sizes.of(f"{first}.0.SelfAttention.relative_attention_bias.weight", 2)
    return {
        "d_model": table[1],
        "vocab_size": table[0],
        "d_ff": sizes.of(f"{first}.1.DenseReluDense.wo.weight", 2)[1],
        "num_layers": sizes.count("encoder.block."),
        "feed_forward_proj": "gated-gelu" if f"{first}.1.DenseReluDense.wi_0.weight" in sizes else "relu",
        "num_heads": heads,
        "d_kv": max(1, sizes.of(f"{first}.0.SelfAttention.q.weight", 2)[0] // heads),
        "relative_attention_num_buckets": buckets,
    }


def _flux(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    (head,) = sizes.of("double_blocks.0.img_attn.norm.query_norm.scale", 1)
    width, inputs = sizes.of("img_in.weight", 2)
    outputs = sizes.of("final_layer.linear.weight", 2)[0]
    return {
        "in_channels": inputs,
        "out_channels": outputs if outputs != inputs else None,
        "num_layers": sizes.count("double_blocks."),
        "num_single_layers": sizes.count("single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": max(1, width // head),
        "joint_attention_dim": sizes.of("txt_in.weight", 2)[1],
        "pooled_projection_dim": sizes.of("vector_in.in_layer.weight", 2)[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in sizes,
    }


def _flux_controlnet(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    (head,) = sizes.of("transformer_blocks.0.attn.norm_q.weight", 1)
    width, inputs = sizes.of("x_embedder.weight", 2)
    modes, hint = "controlnet_mode_embedder.weight", "input_hint_block.conv_out.weight"
    return {
        "in_channels": inputs,
        "num_layers": sizes.count("controlnet_blocks."),
        "num_single_layers": sizes.count("controlnet_single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": max(1, width // head),
        "joint_attention_dim": sizes.of("context_embedder.weight", 2)[1],
        "pooled_projection_dim": sizes.of("time_text_embed.text_embedder.linear_1.weight", 2)[1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in sizes,
        "num_mode": sizes.of(modes, 2)[0] if modes in sizes else None,
        "conditioning_embedding_channels": sizes.of(hint, 4)[0] if hint in sizes else None,
    }


def _sd3(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    width, inputs, patch, _ = sizes.of("x_embedder.proj.weight", 4)
    count = sizes.count("joint_blocks.")
    normed = "joint_blocks.0.x_block.attn.ln_q.weight"
    head = sizes.of(normed, 1)[0] if normed in sizes else min(_HEAD, width)
    joint, prompt = sizes.of("context_embedder.weight", 2)
    return {
        "in_channels": inputs,
        "out_channels": sizes.of("final_layer.linear.weight", 2)[0] // patch**2,
        "patch_size": patch,
        "num_layers": count,
        "attention_head_dim": head,
        "num_attention_heads": max(1, width // head),
        "joint_attention_dim": prompt,
        "caption_projection_dim": joint,
        "pooled_projection_dim": sizes.of("y_embedder.mlp.0.weight", 2)[1],
        "pos_embed_max_size": math.isqrt(sizes.of("pos_embed", 3)[1]),
        "qk_norm": "rms_norm" if normed in sizes else None,
        "dual_attention_layers": [n for n in range(count) if f"joint_blocks.{n}.x_block.attn2.qkv.weight" in sizes],
    }


def _sd3_controlnet(sizes: Sizes, base: Mapping[str, Any]) -> Config:
    """Those without `context_embedder` read no prompt tokens. They are published with SD 3.5 large."""
    width, hint, patch, _ = sizes.of("pos_embed_input.proj.weight", 4)
    entry, positions, prompt = "pos_embed.proj.weight", "pos_embed.pos_embed", "context_embedder.weight"
    inputs = sizes.of(entry, 4)[1] if entry in sizes else hint
    count, normed = sizes.count("controlnet_blocks."), "transformer_blocks.0.attn.norm_q.weight"
    head = sizes.of(normed, 1)[0] if normed in sizes else min(_HEAD, width)
    reads = prompt in sizes
    return {
        "in_channels": inputs,
        "extra_conditioning_channels": max(0, hint - inputs),
        "patch_size": patch,
        "num_layers": count,
        "attention_head_dim": head,
        "num_attention_heads": max(1, width // head),
        "joint_attention_dim": sizes.of(prompt, 2)[1] if reads else None,
        "caption_projection_dim": sizes.of(prompt, 2)[0] if reads else width,
        "pooled_projection_dim": sizes.of("time_text_embed.text_embedder.linear_1.weight", 2)[1],
        "use_pos_embed": entry in sizes,
        "pos_embed_type": "sincos" if positions in sizes else None,
        "pos_embed_max_size": math.isqrt(sizes.of(positions, 3)[1]) if positions in sizes else None,
        "force_zeros_for_pooled_projection": reads,
        "qk_norm": "rms_norm" if normed in sizes else None,
        "dual_attention_layers": [n for n in range(count) if f"transformer_blocks.{n}.attn2.to_q.weight" in sizes],
    }


_DERIVED: Mapping[Kind, Callable[[Sizes, Mapping[str, Any]], Config]] = {
    "unet": _lone_unet, "controlnet": _controlnet, "controlnet_union": _controlnet_union, "t2i_adapter": _t2i_adapter,
    "ip_adapter": _ip_adapter,
    "vae": _vae, "tiny_vae": _tiny_vae, "flux": _flux, "flux_controlnet": _flux_controlnet, "sd3": _sd3,
    "sd3_controlnet": _sd3_controlnet, "flux_ip_adapter": flux_ip_adapter, "sd3_ip_adapter": sd3_ip_adapter,
    "clip": _clip, "open_clip": _open_clip, "clip_vision": clip_vision, "t5": _t5,
}  # fmt: skip
