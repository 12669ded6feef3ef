"""Tensor names of the latent diffusion repo (CompVis, Stability's SGM): files of SD 1, SD 2 and SDXL."""

from collections.abc import Iterator, Mapping
from typing import Any

from .tables import Row, inside, table

_RESNET = table("""
    norm1          in_layers.0
    conv1          in_layers.2
    time_emb_proj  emb_layers.1
    norm2          out_layers.0
    conv2          out_layers.3
    conv_shortcut  skip_connection
""")
_ENDS = table("""
    conv_in                  input_blocks.0.0
    time_embedding.linear_1  time_embed.0
    time_embedding.linear_2  time_embed.2
    add_embedding.linear_1   label_emb.0.0
    add_embedding.linear_2   label_emb.0.2
    conv_norm_out            out.0
    conv_out                 out.2
""")
_VAE_RESNET = table("conv_shortcut  nin_shortcut")
_VAE_ATTENTION = table("""
    group_norm  norm
    to_q        q         1x1
    to_k        k         1x1
    to_v        v         1x1
    to_out.0    proj_out  1x1
""")
_VAE_ENDS = table("conv_norm_out  norm_out")
_OPEN_CLIP = """
    text_model.embeddings.token_embedding                token_embedding
    text_model.embeddings.position_embedding.weight      positional_embedding
    text_model.final_layer_norm                          ln_final
    text_model.encoder.layers.{i}.layer_norm1            transformer.resblocks.{i}.ln_1
    text_model.encoder.layers.{i}.layer_norm2            transformer.resblocks.{i}.ln_2
    text_model.encoder.layers.{i}.mlp.fc1                transformer.resblocks.{i}.mlp.c_fc
    text_model.encoder.layers.{i}.mlp.fc2                transformer.resblocks.{i}.mlp.c_proj
    text_model.encoder.layers.{i}.self_attn.out_proj     transformer.resblocks.{i}.attn.out_proj
"""
_OPEN_CLIP_ATTENTION = """
    text_model.encoder.layers.{i}.self_attn.q_proj.END + text_model.encoder.layers.{i}.self_attn.k_proj.END + text_model.encoder.layers.{i}.self_attn.v_proj.END  transformer.resblocks.{i}.attn.in_proj_END
"""  # noqa: E501  a table


def unet(config: Mapping[str, Any]) -> list[Row]:  # a config.json
    """The U-Net. Its blocks are numbered from the first convolution to the last."""
    return [*_ENDS, *_down_path(config), *_up_path(config)]


def controlnet(config: Mapping[str, Any]) -> list[Row]:  # a config.json
    """A control net (Zhang et al. 2023): a U-Net's down path, the hint's convolutions, zero convolutions."""
    hints = len(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256)))
    outputs = 1 + sum(_layers(config, level) + 1 for level in range(len(config["down_block_types"]))) - 1
    text = "\n".join(
        ["controlnet_cond_embedding.conv_in  input_hint_block.0"]
        + [f"controlnet_cond_embedding.blocks.{k}  input_hint_block.{2 * k + 2}" for k in range(2 * hints - 2)]
        + [f"controlnet_cond_embedding.conv_out  input_hint_block.{4 * hints - 2}"]
        + [f"controlnet_down_blocks.{k}  zero_convs.{k}.0" for k in range(outputs)]
        + ["controlnet_mid_block  middle_block_out.0"]
    )
    return [*_ENDS, *_down_path(config), *table(text)]


def vae(config: Mapping[str, Any]) -> list[Row]:  # a config.json
    """The autoencoder. The decoder's levels are counted from the finest one, the reverse of ours."""
    levels = len(config["block_out_channels"])
    layers = config.get("layers_per_block", 1)
    rows: list[Row] = []
    for side, ours, theirs, step, count in (
        ("encoder", "down_blocks", "down", "downsample", layers),
        ("decoder", "up_blocks", "up", "upsample", layers + 1),
    ):
        rows += inside(side, side, _VAE_ENDS)
        for level in range(levels):
            mine, other = f"{side}.{ours}.{level}", f"{side}.{theirs}.{level if ours[0] == 'd' else levels - 1 - level}"
            rows += inside(f"{mine}.{step}rs.0", f"{other}.{step}", table("conv"))
            for layer in range(count):
                rows += _resnet(f"{mine}.resnets.{layer}", f"{other}.block.{layer}")
        for layer in (0, 1):
            rows += _resnet(f"{side}.mid_block.resnets.{layer}", f"{side}.mid.block_{layer + 1}")
        rows += inside(f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION)
    return rows


def open_clip(layers: int, *, as_linear: bool = False) -> tuple[Row, ...]:
    """A text tower in OpenCLIP's names, where the three projections of attention are one matrix.

    `as_linear`: the file has the projection as a linear layer, and not as a transposed matrix.
    """
    joined = [row for end in ("weight", "bias") for row in table(_OPEN_CLIP_ATTENTION.replace("END", end), layers)]
    projection = () if as_linear else table("text_projection.weight  text_projection  transposed")
    return (*table(_OPEN_CLIP, layers), *joined, *projection)


def _resnet(ours: str, theirs: str) -> list[Row]:
    return [Row((ours,), theirs), *inside(ours, theirs, _VAE_RESNET)]


def _layers(config: Mapping[str, Any], level: int) -> int:
    layers = config.get("layers_per_block", 2)
    return layers[level] if isinstance(layers, list | tuple) else layers


def _down_path(config: Mapping[str, Any]) -> Iterator[Row]:
    levels = len(config["down_block_types"])
    number = 1
    for level in range(levels):
        for layer in range(_layers(config, level)):
            yield from inside(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{number}.0", _RESNET)
            yield Row((f"down_blocks.{level}.attentions.{layer}",), f"input_blocks.{number}.1")
            number += 1
        yield Row((f"down_blocks.{level}.downsamplers.0.conv",), f"input_blocks.{number}.0.op")
        number += 1
    for layer in (0, 1):
        yield from inside(f"mid_block.resnets.{layer}", f"middle_block.{2 * layer}", _RESNET)
    yield Row(("mid_block.attentions.0",), "middle_block.1")


def _up_path(config: Mapping[str, Any]) -> Iterator[Row]:
    kinds = config["up_block_types"]
    number = 0
    for level, kind in enumerate(kinds):
        attends = "CrossAttn" in kind
        for layer in range(_layers(config, len(kinds) - 1 - level) + 1):
            yield from inside(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{number}.0", _RESNET)
            yield Row((f"up_blocks.{level}.attentions.{layer}",), f"output_blocks.{number}.1")
            number += 1
        yield Row((f"up_blocks.{level}.upsamplers.0.conv",), f"output_blocks.{number - 1}.{1 + attends}.conv")
