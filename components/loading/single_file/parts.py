"""Recognise the models of a file by the names and shapes of its tensors."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ...storage.tensors import Shape
from . import latent_diffusion, transformers
from .tables import Row, ties

Kind = Literal["unet", "controlnet", "vae", "flux", "sd3", "clip", "open_clip", "t5"]
Layout = Literal["original", "diffusers", "transformers", "llama.cpp"]

_SIGNS: tuple[tuple[Kind, Layout, str], ...] = (
    ("controlnet", "original", "input_hint_block.0.weight"),
    ("unet", "original", "output_blocks.0.0.in_layers.0.weight"),
    ("flux", "original", "double_blocks.0.img_attn.qkv.weight"),
    ("sd3", "original", "joint_blocks.0.x_block.attn.qkv.weight"),
    ("vae", "original", "decoder.mid.block_1.norm1.weight"),
    ("open_clip", "original", "transformer.resblocks.0.attn.in_proj_weight"),
    ("clip", "transformers", "text_model.embeddings.token_embedding.weight"),
    ("t5", "transformers", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ("t5", "llama.cpp", "enc.blk.0.attn_q.weight"),
    ("controlnet", "diffusers", "controlnet_cond_embedding.conv_in.weight"),
    ("unet", "diffusers", "up_blocks.0.resnets.0.time_emb_proj.weight"),
    ("vae", "diffusers", "decoder.mid_block.resnets.0.norm1.weight"),
    ("flux", "diffusers", "single_transformer_blocks.0.proj_mlp.weight"),
    ("sd3", "diffusers", "transformer_blocks.0.norm1_context.linear.weight"),
)
"""A tensor that every model of a kind and layout has, at any size, and no other model."""

_UNUSED = ("logit_scale", "position_ids", "attn_mask", "scaled_fp8", "spiece_model")
"""Last parts of the names of tensors that our models do not need."""
_UNUSED_PREFIXES = ("loss.", "model_ema.", "dec.", "output.")
"""Beginnings of unneeded names: an autoencoder's training state, and T5's decoder in llama.cpp's names."""


@dataclass(frozen=True)
class Part:
    """One model in a file."""

    kind: Kind
    layout: Layout
    """Whose names its tensors have."""
    prefix: str
    """The beginning of the names in the file."""
    shapes: Mapping[str, Shape]
    """By name without the prefix."""

    @property
    def width(self) -> int:
        """The width of a text tower, which tells the towers of one file apart; 0 for other models."""
        for name in ("text_model.embeddings.token_embedding.weight", "token_embedding.weight", "shared.weight"):
            if name in self.shapes:
                return self.shapes[name][1]
        return 0

    @property
    def original(self) -> Mapping[str, Shape]:
        """The shapes by the names that configs are derived from: the authors' names; transformers' for text towers."""
        if self.layout in ("original", "transformers"):
            return self.shapes
        if self.layout == "llama.cpp":
            names = {row.theirs: row.ours[0] for row in self.rows()}
            heads = {name: name.removesuffix(".weight") for name in self.shapes}
            return {f"{names[head]}.weight": self.shapes[n] for n, head in heads.items() if head in names}
        shapes: dict[str, Shape] = {}
        for tie in ties(self.shapes, self.rows()):
            pieces = [self.shapes[name] for name in tie.ours]
            whole = (sum(piece[0] for piece in pieces), *pieces[0][1:]) if pieces[0] else pieces[0]
            shapes[tie.theirs] = whole
        return shapes

    def rows(self) -> Collection[Row]:
        """The table of names between the original layout and ours, for the size of this model."""
        match self.kind:
            case "flux":
                return transformers.flux(self._count("double_blocks.", "single_blocks.", "transformer_blocks."))
            case "sd3":
                return transformers.sd3(self._count("joint_blocks.", "transformer_blocks."))
            case "open_clip":
                return latent_diffusion.open_clip(self._count("transformer.resblocks."))
            case "t5" if self.layout == "llama.cpp":
                return transformers.t5(self._count("enc.blk."), gated="enc.blk.0.ffn_gate.weight" in self.shapes)
            case "unet" | "controlnet" | "vae":
                return _rows_by_counting(self)
            case _:
                return ()

    def names(self) -> Iterator[str]:
        """The names in the file that the model must have."""
        for name in self.shapes:
            # A plain tower has no projection, and the last layer of SD 2's tower is never read.
            unused = name.rpartition(".")[2] in _UNUSED or name.startswith(_UNUSED_PREFIXES)
            if not unused and not (self.kind == "open_clip" and _beyond(name, self)):
                yield self.prefix + name

    def _count(self, *heads: str) -> int:
        return 1 + max((number_after(name, head) for name in self.shapes for head in heads), default=0)


def number_after(name: str, head: str) -> int:
    """The number that follows `head` in a name; -1 if there is none.

    >>> number_after("a.down_blocks.12.x", "down_blocks."), number_after("a.b", "down_blocks.")
    (12, -1)
    """
    _, found, rest = name.partition(head)
    number = rest.partition(".")[0]
    return int(number) if found and number.isdigit() else -1


def parts_of(shapes: Mapping[str, Shape]) -> list[Part]:
    """The models of a file with tensors of these names and shapes."""
    found: dict[tuple[Kind, str], Layout] = {}
    for kind, layout, sign in _SIGNS:
        for name in shapes:
            if name == sign or name.endswith(f".{sign}"):
                found.setdefault((kind, name[: -len(sign)]), layout)
    # Only a control net in diffusers' layout has the signs of two kinds: its own and the U-Net's.
    prefixes = {prefix for _, prefix in found}
    made: list[Part] = []
    for (kind, prefix), layout in found.items():
        if kind == "open_clip" and f"{prefix}token_embedding.weight" not in shapes:
            continue  # the image tower
        deeper = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        own = {n[len(prefix) :]: s for n, s in shapes.items() if n.startswith(prefix) and not n.startswith(deeper)}
        made.append(Part(kind, layout, prefix, own))
    return made


def _beyond(name: str, part: Part) -> bool:
    layer = number_after(name, "transformer.resblocks.")
    return layer >= open_clip_layers(part.shapes) or (name == "text_projection" and part.prefix.startswith("cond_"))


def open_clip_layers(shapes: Mapping[str, Shape]) -> int:
    """How many layers of an OpenCLIP tower are used. SD 2 reads the last but one of ViT-H's 24."""
    count = 1 + max(number_after(name, "transformer.resblocks.") for name in shapes)
    return 23 if count == 24 else count


def _rows_by_counting(part: Part) -> list[Row]:
    """The rows for a model in diffusers' layout. Its config is unknown here, so levels and layers are counted."""
    names = part.shapes
    if part.kind == "vae":
        levels = 1 + max(number_after(name, "encoder.down_blocks.") for name in names)
        layers = 1 + max(number_after(name, "encoder.down_blocks.0.resnets.") for name in names)
        return latent_diffusion.vae({"block_out_channels": [0] * levels, "layers_per_block": layers})
    levels = 1 + max(number_after(name, "down_blocks.") for name in names)
    layers = 1 + max(number_after(name, "down_blocks.0.resnets.") for name in names)
    ups = ["CrossAttn" if any(f"up_blocks.{n}.attentions." in name for name in names) else "" for n in range(levels)]
    config = {"down_block_types": [""] * levels, "layers_per_block": layers, "up_block_types": ups}
    return latent_diffusion.unet(config) if part.kind == "unet" else latent_diffusion.controlnet(config)
