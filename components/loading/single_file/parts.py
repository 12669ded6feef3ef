"""One model in a file: its names, and the table between them and those of our models."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ...storage.tensors import Shape
from . import image_prompts, latent_diffusion, small_models, transformers
from .sizes import Sizes, number_after
from .tables import Row, our_names, ties

Kind = Literal[
    "unet", "controlnet", "controlnet_union", "flux_controlnet", "sd3_controlnet", "t2i_adapter", "ip_adapter",
    "flux_ip_adapter", "sd3_ip_adapter", "vae", "tiny_vae", "flux", "sd3", "clip", "open_clip", "clip_vision", "t5",
]  # fmt: skip
Layout = Literal["original", "diffusers", "transformers", "llama.cpp"]

_UNUSED = (
    "logit_scale", "position_ids", "attn_mask", "scaled_fp8", "spiece_model", "vae_scale", "vae_shift", "v_pred",
    "ztsnr",
)  # fmt: skip
"""Last parts of the names of tensors that our models do not need."""
_UNUSED_PREFIXES = ("loss.", "model_ema.", "dec.", "output.", "decoder.block.", "lm_head.", "visual.")
"""Beginnings of unneeded names: an autoencoder's training state, T5's decoder, and OpenCLIP's image tower."""

_SMALL = ("t2i_adapter", "tiny_vae", "ip_adapter", "flux_ip_adapter")
"""Kinds whose configs are derived from our names."""
_TOWER = ("embeddings.", "encoder.", "final_layer_norm.")
"""Beginnings of a CLIP's names in transformers 5."""


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
        table = Sizes(self.shapes).ending("token_embedding.weight", 2)
        return table[1] if table else 0

    @property
    def original(self) -> Mapping[str, Shape]:
        """The shapes by the names that configs are derived from.

        These are the authors' names; transformers' for text towers, and diffusers' for adapters and tiny autoencoders.
        """
        match self.layout:
            case "original" if self.kind not in _SMALL:
                return self.shapes
            case "original" | "llama.cpp":
                names = our_names(self.shapes, self.rows())
                return {ours: self.shapes[theirs] for theirs, ours in names.items()}
            case "transformers":  # transformers 5 omits `text_model.`
                return {f"text_model.{n}" if n.startswith(_TOWER) and self.kind == "clip" else n: s
                        for n, s in self.shapes.items()}  # fmt: skip
            case "diffusers":
                return {
                    tie.theirs: _joined([self.shapes[n] for n in tie.ours]) for tie in ties(self.shapes, self.rows())
                }

    def rows(self) -> Collection[Row]:
        """The table of names between the original layout and ours, for the size of this model."""
        match self.kind:
            case "flux":
                return transformers.flux(self._count("double_blocks.", "single_blocks.", "transformer_blocks."))
            case "sd3":
                return transformers.sd3(self._count("joint_blocks.", "transformer_blocks."))
            case "open_clip":
                as_linear = "text_projection.weight" in self.shapes
                return latent_diffusion.open_clip(self._count("transformer.resblocks."), as_linear=as_linear)
            case "t5" if self.layout == "llama.cpp":
                return transformers.t5(self._count("enc.blk."), gated="enc.blk.0.ffn_gate.weight" in self.shapes)
            case "unet" | "controlnet" | "controlnet_union" | "vae":
                return _rows_by_counting(self)
            case "tiny_vae" if self.layout == "original":
                return small_models.taesd(self.shapes)
            case "t2i_adapter" if self.layout == "original":
                return small_models.t2i_adapter(self.shapes)
            case "ip_adapter":
                return small_models.ip_adapter(self.shapes)
            case "flux_ip_adapter" if self.layout == "original":
                return image_prompts.xlabs(self._count("double_blocks."))
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
        return max(1, *(Sizes(self.shapes).count(head) for head in heads))


def _beyond(name: str, part: Part) -> bool:
    layer = number_after(name, "transformer.resblocks.")
    return layer >= open_clip_layers(part.shapes) or (name == "text_projection" and part.prefix.startswith("cond_"))


def open_clip_layers(shapes: Mapping[str, Shape]) -> int:
    """The number of layers of an OpenCLIP tower that are used. SD 2 reads the last but one of ViT-H's 24."""
    count = Sizes(shapes).count("transformer.resblocks.")
    return 23 if count == 24 else count


def _joined(pieces: list[Shape]) -> Shape:
    """The shape of a matrix whose rows are several matrices of ours."""
    return (sum(piece[0] for piece in pieces), *pieces[0][1:]) if all(pieces) else ()


def _rows_by_counting(part: Part) -> list[Row]:
    """The rows for a model in diffusers' layout. Its config is unknown here, so levels and layers are counted."""
    sizes = Sizes(part.shapes)
    if part.kind == "vae":
        levels, layers = sizes.count("encoder.down_blocks."), sizes.count("encoder.down_blocks.0.resnets.")
        return latent_diffusion.vae({"block_out_channels": [0] * levels, "layers_per_block": layers})
    levels = sizes.count("down_blocks.")
    ups = ["CrossAttn" if any(f"up_blocks.{n}.attentions." in name for name in part.shapes) else ""
           for n in range(levels)]  # fmt: skip
    config = {
        "down_block_types": [""] * levels,
        "layers_per_block": [sizes.count(f"down_blocks.{level}.resnets.") for level in range(levels)],
        "up_block_types": ups,
        "conditioning_embedding_out_channels": [0] * (1 + sizes.count("controlnet_cond_embedding.blocks.") // 2),
    }
    return latent_diffusion.unet(config) if part.kind == "unet" else latent_diffusion.controlnet(config)
