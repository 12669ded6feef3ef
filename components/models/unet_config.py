"""The published config keys of U-Nets and of their control nets, and the sizes of each level."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import Field

from .activations import Activation
from .config import Chance, Config, Epsilon, Layers, Rows, Scale, Width, per_level

DownType = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpType = Literal["CrossAttnUpBlock2D", "UpBlock2D"]
MidType = Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]

T = TypeVar("T")


class UNetEncoderConfig(Config):
    """The keys that U-Nets and their control nets have in common: those of the embeddings and the down levels."""

    in_channels: Width = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[DownType, ...] = Field(
        default=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        description="Other blocks belong to DeepFloyd IF and Kandinsky.",
    )
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[Width, ...] = (320, 640, 1280, 1280)
    layers_per_block: Layers | tuple[Layers, ...] = 2
    downsample_padding: Layers = 1
    mid_block_scale_factor: Scale = 1
    act_fn: Activation = "silu"
    norm_num_groups: Width = 32
    norm_eps: Epsilon = 1e-5
    cross_attention_dim: Width | tuple[Width, ...] = 1280
    transformer_layers_per_block: Layers | tuple[Layers | tuple[Layers, ...], ...] = 1
    encoder_hid_dim: Width | None = None
    encoder_hid_dim_type: Literal["text_proj"] | None = Field(
        default=None, description="Image projections belong to Kandinsky and to image adapters."
    )
    attention_head_dim: Width | tuple[Width, ...] = 8
    num_attention_heads: Width | tuple[Width, ...] | None = None
    use_linear_projection: bool = False
    class_embed_type: Literal["timestep", "identity", "projection", "simple_projection"] | None = None
    addition_embed_type: Literal["text_time"] | None = Field(
        default=None, description="Other embeddings belong to DeepFloyd IF and Kandinsky."
    )
    addition_time_embed_dim: Width | None = None
    num_class_embeds: Rows | None = None
    # Fused attention adds up scores in float32 whatever this says, and so does the reference with it.
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    projection_class_embeddings_input_dim: Width | None = None
    addition_embed_type_num_heads: Width = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the numbers of levels, heads and groups, and keys that others ask for."""
        count = len(self.down_block_types)
        unlike = [p for key in self.level_keys() for p in per_level(key, getattr(self, key), count)]
        yield from unlike or self._division_problems()
        for key, is_needed, needed_by in (
            ("projection_class_embeddings_input_dim", self.addition_embed_type, "addition_embed_type"),
            (
                "projection_class_embeddings_input_dim",
                self.class_embed_type in _PROJECTIONS,
                "class_embed_type",
            ),
            ("addition_time_embed_dim", self.addition_embed_type, "addition_embed_type"),
            ("encoder_hid_dim", self.encoder_hid_dim_type, "encoder_hid_dim_type"),
        ):
            if is_needed and getattr(self, key) is None:
                yield key, f"needs a number, got null: {needed_by} asks for it."

    def level_keys(self) -> tuple[str, ...]:
        """Return the keys whose value may be a tuple with one entry for each level."""
        return _PER_LEVEL

    def _division_problems(self) -> Iterator[tuple[str, str]]:
        for level in down_levels(self):
            if level.attends and level.channels % level.heads:
                yield "attention_head_dim", f"needs to divide {level.channels} channels, got {level.heads} (heads)."
            if level.channels % self.norm_num_groups:
                yield "norm_num_groups", f"needs to divide {level.channels} channels, got {self.norm_num_groups}."


class UNet2DConditionConfig(UNetEncoderConfig):
    """The published keys. Values of other families are refused; the description of the field says which."""

    sample_size: Rows | tuple[Rows, Rows] | None = None
    out_channels: Width = 4
    center_input_sample: bool = False
    mid_block_type: MidType | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[UpType, ...] = Field(
        default=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        description="Other blocks belong to DeepFloyd IF and Kandinsky.",
    )
    dropout: Chance = 0.0
    reverse_transformer_layers_per_block: tuple[Layers | tuple[Layers, ...], ...] | None = None
    dual_cross_attention: Literal[False] = Field(
        default=False, description="Two prompts a layer belong to Versatile Diffusion."
    )
    resnet_skip_time_act: Literal[False] = Field(default=False, description="It belongs to the blocks of DeepFloyd IF.")
    resnet_out_scale_factor: float = 1.0  # as published, these blocks do not read it
    time_embedding_type: Literal["positional"] = Field(
        default="positional", description="Fourier features belong to the K-diffusion upscaler."
    )
    time_embedding_dim: Width | None = None
    time_embedding_act_fn: Activation | None = None
    timestep_post_act: Activation | None = None
    time_cond_proj_dim: Width | None = None
    conv_in_kernel: Width = 3
    conv_out_kernel: Width = 3
    attention_type: Literal["default"] = Field(default="default", description="Gated attention belongs to GLIGEN.")
    class_embeddings_concat: bool = False
    mid_block_only_cross_attention: bool | None = None  # as published, these middle blocks do not read it
    cross_attention_norm: Literal[None] = Field(
        default=None, description="It belongs to the blocks of DeepFloyd IF and Kandinsky."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the levels, down and up."""
        yield from super().problems()
        layers = self.transformer_layers_per_block
        nested = isinstance(layers, tuple) and any(isinstance(n, tuple) for n in layers)
        if nested and self.reverse_transformer_layers_per_block is None:
            key = "reverse_transformer_layers_per_block"
            yield key, "needs a list, got null: transformer_layers_per_block differs inside a level."

    def level_keys(self) -> tuple[str, ...]:
        """Return the keys whose value may be a tuple with one entry for each level."""
        return ("up_block_types", *_PER_LEVEL, "reverse_transformer_layers_per_block")


_PROJECTIONS = ("projection", "simple_projection")
_PER_LEVEL = (
    "block_out_channels",
    "only_cross_attention",
    "layers_per_block",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "attention_head_dim",
    "num_attention_heads",
)


@dataclass(frozen=True)
class Level:
    """One resolution of a U-Net: the sizes of its residual blocks and transformers."""

    channels: int
    resnets: int
    heads: int
    context_channels: int
    transformer_layers: tuple[int, ...]  # one entry for each residual block
    only_cross_attention: bool
    attends: bool


def down_levels(config: UNetEncoderConfig) -> tuple[Level, ...]:
    """Return the down levels, from the largest to the smallest."""
    count = len(config.down_block_types)
    heads = config.attention_head_dim if config.num_attention_heads is None else config.num_attention_heads
    return tuple(
        Level(
            channels=channels,
            resnets=resnets,
            heads=heads,
            context_channels=context,
            transformer_layers=_each(layers, resnets),
            only_cross_attention=only,
            attends=kind == "CrossAttnDownBlock2D",
        )
        for kind, channels, resnets, heads, context, layers, only in zip(
            config.down_block_types,
            config.block_out_channels,
            _each(config.layers_per_block, count),
            # A wrong name that all checkpoints were published with: "attention_head_dim" is the number of heads.
            _each(heads, count),
            _each(config.cross_attention_dim, count),
            _each(config.transformer_layers_per_block, count),
            _each(config.only_cross_attention, count),
            strict=True,
        )
    )


def up_levels(config: UNet2DConditionConfig) -> tuple[Level, ...]:
    """Return the up levels, from the smallest to the largest, with one more residual block each than down."""
    count = len(config.up_block_types)
    layers = config.reverse_transformer_layers_per_block
    if layers is None:
        layers = _each(config.transformer_layers_per_block, count)[::-1]
    return tuple(
        Level(
            channels=level.channels,
            resnets=level.resnets + 1,
            heads=level.heads,
            context_channels=level.context_channels,
            transformer_layers=_each(entry, level.resnets + 1),
            only_cross_attention=level.only_cross_attention,
            attends=kind == "CrossAttnUpBlock2D",
        )
        for level, kind, entry in zip(reversed(down_levels(config)), config.up_block_types, layers, strict=True)
    )


def _each(value: T | tuple[T, ...], count: int) -> tuple[T, ...]:
    return value if isinstance(value, tuple) else (value,) * count
