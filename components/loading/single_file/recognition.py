"""Recognise the models of a file by sets of tensors that each kind of model has."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ....registry import with_article
from ...storage.tensors import Shape
from .parts import Kind, Layout, Part
from .small_models import TAESD


@dataclass(frozen=True)
class Sign:
    """The tensors by which a kind of model is recognised, in one layout."""

    kind: Kind
    layout: Layout
    what: str
    """The kind, for texts."""
    required: tuple[str, ...]
    """Tensors that each model of the kind has, at any size. `a|b` is one of the two. The first finds the prefix."""
    forbidden: tuple[str, ...] = ()
    """Tensors of other kinds that have all required ones too."""


_UNET = ("input_blocks.0.0.weight", "time_embed.0.weight", "input_blocks.1.0.in_layers.0.weight")
_NAMED_UNET = ("conv_in.weight", "time_embedding.linear_1.weight", "down_blocks.0.resnets.0.conv1.weight")
_CONTROL = ("controlnet_down_blocks.0.weight", "controlnet_mid_block.weight", *_NAMED_UNET)
_CLIP = (
    "embeddings.token_embedding.weight",
    "embeddings.position_embedding.weight",
    "encoder.layers.0.self_attn.q_proj.weight",
    "encoder.layers.0.mlp.fc1.weight",
)
_TIMES = ("time_text_embed.timestep_embedder.linear_1.weight", "time_text_embed.text_embedder.linear_1.weight")

SIGNS: tuple[Sign, ...] = (
    Sign("controlnet", "original", "control net", (
        "input_hint_block.0.weight", *_UNET, "zero_convs.0.0.weight", "middle_block_out.0.weight",
    )),
    Sign("unet", "original", "U-Net", (
        "output_blocks.0.0.in_layers.0.weight", *_UNET, "middle_block.0.in_layers.0.weight", "out.2.weight",
    )),
    Sign("flux", "original", "Flux transformer", (
        "double_blocks.0.img_attn.qkv.weight", "double_blocks.0.img_attn.norm.query_norm.scale", "img_in.weight",
        "txt_in.weight", "time_in.in_layer.weight", "vector_in.in_layer.weight", "single_blocks.0.linear1.weight",
        "final_layer.linear.weight",
    )),
    Sign("sd3", "original", "SD 3 transformer", (
        "joint_blocks.0.x_block.attn.qkv.weight", "x_embedder.proj.weight", "context_embedder.weight", "pos_embed",
        "t_embedder.mlp.0.weight", "y_embedder.mlp.0.weight", "final_layer.linear.weight",
    )),
    Sign("vae", "original", "autoencoder", (
        "decoder.mid.block_1.norm1.weight", "decoder.conv_in.weight", "decoder.conv_out.weight",
        "encoder.mid.block_1.norm1.weight", "encoder.conv_in.weight", "encoder.conv_out.weight",
        "encoder.down.0.block.0.conv2.weight",
    )),
    Sign("open_clip", "original", "OpenCLIP text tower", (
        "transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "positional_embedding",
        "transformer.resblocks.0.mlp.c_fc.weight",
    )),
    Sign("clip", "transformers", "CLIP text tower", tuple(f"text_model.{name}" for name in _CLIP)),
    Sign("clip", "transformers", "CLIP text tower", _CLIP),
    Sign("clip_vision", "transformers", "CLIP image encoder", (
        "vision_model.embeddings.class_embedding", "vision_model.embeddings.patch_embedding.weight",
        "vision_model.embeddings.position_embedding.weight", "vision_model.encoder.layers.0.mlp.fc1.weight",
        "vision_model.pre_layrnorm.weight", "visual_projection.weight",
    ), ("text_model.embeddings.token_embedding.weight",)),
    Sign("t5", "transformers", "T5 encoder", (
        "encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight|encoder.embed_tokens.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "encoder.block.0.layer.1.DenseReluDense.wo.weight",
    )),
    Sign("t5", "llama.cpp", "T5 encoder", (
        "enc.blk.0.attn_q.weight", "token_embd.weight", "enc.blk.0.attn_rel_b.weight", "enc.blk.0.ffn_down.weight",
    )),
    Sign("controlnet_union", "diffusers", "union of control nets", (
        "task_embedding", *_CONTROL, "control_add_embedding.linear_1.weight", "spatial_ch_projs.weight",
        "controlnet_cond_embedding.conv_in.weight",
    )),
    Sign("controlnet", "diffusers", "control net", (
        "controlnet_cond_embedding.conv_in.weight", *_CONTROL,
    ), ("task_embedding",)),
    Sign("unet", "diffusers", "U-Net", (
        "up_blocks.0.resnets.0.time_emb_proj.weight", *_NAMED_UNET, "conv_out.weight",
    ), ("controlnet_cond_embedding.conv_in.weight",)),
    Sign("vae", "diffusers", "autoencoder", (
        "decoder.mid_block.resnets.0.norm1.weight", "decoder.conv_in.weight", "decoder.conv_out.weight",
        "encoder.mid_block.resnets.0.norm1.weight", "encoder.conv_in.weight", "encoder.conv_out.weight",
        "encoder.down_blocks.0.resnets.0.conv2.weight",
    )),
    Sign("tiny_vae", "diffusers", "tiny autoencoder", (
        "decoder.layers.0.weight", "decoder.layers.2.conv.0.weight", "encoder.layers.0.weight",
        "encoder.layers.1.conv.0.weight",
    )),
    Sign("flux_controlnet", "diffusers", "Flux control net", (
        "controlnet_x_embedder.weight", "x_embedder.weight", "context_embedder.weight", *_TIMES,
        "transformer_blocks.0.attn.norm_q.weight",
    )),
    Sign("flux", "diffusers", "Flux transformer", (
        "single_transformer_blocks.0.proj_mlp.weight", "transformer_blocks.0.attn.norm_q.weight", "x_embedder.weight",
        "context_embedder.weight", *_TIMES, "proj_out.weight",
    ), ("controlnet_x_embedder.weight",)),
    Sign("sd3_controlnet", "diffusers", "SD 3 control net", (
        "pos_embed_input.proj.weight", "controlnet_blocks.0.weight", *_TIMES, "transformer_blocks.0.attn.to_q.weight",
    )),
    Sign("sd3", "diffusers", "SD 3 transformer", (
        "transformer_blocks.0.norm1_context.linear.weight", "transformer_blocks.0.attn.to_q.weight",
        "pos_embed.proj.weight", "pos_embed.pos_embed", "context_embedder.weight", *_TIMES, "proj_out.weight",
    ), ("pos_embed_input.proj.weight", "x_embedder.weight")),
    Sign("tiny_vae", "original", "tiny autoencoder", (
        f"{TAESD}decoder.1.weight", f"{TAESD}decoder.3.conv.0.weight", f"{TAESD}encoder.0.weight",
        f"{TAESD}encoder.1.conv.0.weight",
    )),
    Sign("t2i_adapter", "diffusers", "T2I-Adapter", (
        "adapter.body.0.resnets.0.block1.weight", "adapter.body.1.resnets.0.block1.weight",
    )),
    Sign("t2i_adapter", "original", "T2I-Adapter", (
        "body.0.block1.weight", "body.0.block2.weight", "body.1.block1.weight", "conv_in.weight",
    ), ("body.0.skep.weight",)),
    Sign("t2i_adapter", "original", "T2I-Adapter", (
        "body.0.body.0.block1.weight", "body.0.in_conv.weight", "body.0.out_conv.weight", "body.1.body.0.block1.weight",
    )),
    Sign("ip_adapter", "original", "IP-Adapter", (
        "image_proj.norm.weight|image_proj.proj.3.weight|image_proj.latents",
        "ip_adapter.1.to_k_ip.weight|adapter_modules.1.to_k_ip.weight",
        "ip_adapter.1.to_v_ip.weight|adapter_modules.1.to_v_ip.weight",
    ), ("ip_adapter.0.norm_ip.linear.weight", "ip_adapter.0.to_k_ip.weight")),
    Sign("flux_ip_adapter", "original", "IP-Adapter of Flux", (
        "ip_adapter_proj_model.proj.weight", "double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight",
    )),
    Sign("flux_ip_adapter", "diffusers", "IP-Adapter of Flux", (
        "image_proj.proj.weight", "ip_adapter.0.to_k_ip.bias",
    )),
    Sign("sd3_ip_adapter", "diffusers", "IP-Adapter of SD 3", (
        "image_proj.latents", "image_proj.time_embedding.linear_1.weight", "ip_adapter.0.norm_ip.linear.weight",
    )),
)  # fmt: skip
"""The tensors that a model of each kind and layout has."""

_HEADS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("U-Net", ("input_blocks.", "output_blocks.", "middle_block.", "up_blocks.", "down_blocks.")),
    ("Flux transformer", ("double_blocks.", "single_blocks.", "single_transformer_blocks.")),
    ("SD 3 transformer", ("joint_blocks.", "transformer_blocks.")),
    ("CLIP text tower", ("text_model.",)),
    ("OpenCLIP text tower", ("transformer.resblocks.",)),
    ("T5 encoder", ("encoder.block.", "enc.blk.")),
    ("autoencoder", ("decoder.", "encoder.")),
    ("IP-Adapter", ("image_proj.", ".to_k_ip.")),
)
"""Beginnings of names that say of which kind of model a file has only a part."""


def parts_of(shapes: Mapping[str, Shape]) -> list[Part]:
    """The whole models of a file with tensors of these names and shapes."""
    found: dict[tuple[Kind, str], Sign] = {}
    for sign in SIGNS:
        for prefix in _prefixes(sign.required[0], shapes):
            if not _absent(sign, prefix, shapes) and not any(f"{prefix}{name}" in shapes for name in sign.forbidden):
                found.setdefault((sign.kind, prefix), sign)
    prefixes = {prefix for _, prefix in found}
    made: list[Part] = []
    for (kind, prefix), sign in found.items():
        deeper = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        own = {n[len(prefix) :]: s for n, s in shapes.items() if n.startswith(prefix) and not n.startswith(deeper)}
        made.append(Part(kind, sign.layout, prefix, own))
    return made


def incomplete(shapes: Mapping[str, Shape], parts: Collection[Part]) -> str:
    """A phrase on the kind of model of which the tensors outside `parts` are a piece; "" if there is none."""
    prefixes = tuple(part.prefix for part in parts)
    rest = {name: shape for name, shape in shapes.items() if not prefixes or not name.startswith(prefixes)}
    for what, heads in _HEADS:
        if any(head in name for name in rest for head in heads):
            lacking = [name.replace("|", " or ") for name in min(_attempts(what, rest), key=len, default=[])]
            which = f", which lacks {', '.join(lacking[:3])}{' …' if lacking[3:] else ''}" if lacking else ""
            return f"a part of {with_article(what)}{which}"
    return ""


def _attempts(what: str, shapes: Mapping[str, Shape]) -> Iterator[list[str]]:
    """The required tensors that are missing, for each sign of a kind and each prefix that fits one of its names."""
    for sign in SIGNS:
        if sign.what == what:
            for prefix in {prefix for name in sign.required for prefix in _prefixes(name, shapes)}:
                yield _absent(sign, prefix, shapes)


def _prefixes(name: str, shapes: Mapping[str, Shape]) -> Iterator[str]:
    """The prefixes of `name` in the names of a file. transformers' own part of a CLIP's names is no prefix."""
    for choice in name.split("|"):
        for stored in shapes:
            if stored == choice or stored.endswith(f".{choice}"):
                prefix = stored[: -len(choice)]
                if not prefix.endswith("text_model."):
                    yield prefix


def _absent(sign: Sign, prefix: str, shapes: Mapping[str, Shape]) -> list[str]:
    return [name for name in sign.required if not any(f"{prefix}{choice}" in shapes for choice in name.split("|"))]
