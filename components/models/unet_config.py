"""The published config keys of U-Nets and of what shares their way down, and what follows for each level."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import Field

from .activations import Activation
from .config import Config, per_level

DownType = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpType = Literal["CrossAttnUpBlock2D", "UpBlock2D"]
MidType = Literal["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"]

T = TypeVar("T")


class EncoderConfig(Config):
    """The keys that U-Nets and their control nets have in common; those of the way down."""

    in_channels: int = 4
    flip_sin_to_cos: bool = True
    freq_shift: float = 0
    down_block_types: tuple[DownType, ...] = Field(
        default=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        description="Other blocks belong to DeepFloyd IF and Kandinsky.",
    )
    only_cross_attention: bool | tuple[bool, ...] = False
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int | tuple[int, ...] = 2
    downsample_padding: int = 1
    mid_block_scale_factor: float = 1
    act_fn: Activation = "silu"
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    cross_attention_dim: int | tuple[int, ...] = 1280
    transformer_layers_per_block: int | tuple[int | tuple[int, ...], ...] = 1
    encoder_hid_dim: int | None = None
    encoder_hid_dim_type: Literal["text_proj"] | None = Field(
        default=None, description="Image projections belong to Kandinsky and to image adapters."
    )
    attention_head_dim: int | tuple[int, ...] = 8
    num_attention_heads: int | tuple[int, ...] | None = None
    use_linear_projection: bool = False
    class_embed_type: Literal["timestep", "identity", "projection", "simple_projection"] | None = None
    addition_embed_type: Literal["text_time"] | None = Field(
        default=None, description="Other embeddings belong to DeepFloyd IF and Kandinsky."
    )
    addition_time_embed_dim: int | None = None
    num_class_embeds: int | None = None
    # Fused attention adds up scores in float32 whatever this says, and so does the reference with it.
    upcast_attention: bool | None = False
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    projection_class_embeddings_input_dim: int | None = None
    addition_embed_type_num_heads: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        count = len(self.down_block_types)
        unlike = [p for key in self.level_keys() for p in per_level(key, getattr(self, key), count)]
        yield from unlike or self._undivided()
        for key, is_needed, reason in (
            ("projection_class_embeddings_input_dim", self.addition_embed_type, "addition_embed_type needs it"),
            (
                "projection_class_embeddings_input_dim",
                self.class_embed_type in _PROJECTIONS,
                "class_embed_type needs it",
            ),
            ("addition_time_embed_dim", self.addition_embed_type, "addition_embed_type needs it"),
            ("encoder_hid_dim", self.encoder_hid_dim_type, "encoder_hid_dim_type needs it"),
        ):
            if is_needed and getattr(self, key) is None:
                yield key, f"is missing: {reason}."

    def level_keys(self) -> tuple[str, ...]:
        """The keys that may be a tuple with one entry for each level."""
        return _PER_LEVEL

    def _undivided(self) -> Iterator[tuple[str, str]]:
        for level in down_levels(self):
            if level.attends and level.channels % level.heads:
                yield "attention_head_dim", f"{level.heads} heads do not divide {level.channels} channels."
            if level.channels % self.norm_num_groups:
                yield "norm_num_groups", f"{self.norm_num_groups} groups do not divide {level.channels} channels."


class UNet2DConditionConfig(EncoderConfig):
    """Keys and defaults as published. What a type excludes is refused with the field's description as the reason."""

    sample_size: int | tuple[int, int] | None = None
    out_channels: int = 4
    center_input_sample: bool = False
    mid_block_type: MidType | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[UpType, ...] = Field(
        default=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        description="Other blocks belong to DeepFloyd IF and Kandinsky.",
    )
    dropout: float = 0.0
    reverse_transformer_layers_per_block: tuple[int | tuple[int, ...], ...] | None = None
    dual_cross_attention: Literal[False] = Field(
        default=False, description="Two prompts a layer belong to Versatile Diffusion."
    )
    resnet_skip_time_act: Literal[False] = Field(default=False, description="It belongs to the blocks of DeepFloyd IF.")
    resnet_out_scale_factor: float = 1.0  # as published, the blocks that are here do not read it
    time_embedding_type: Literal["positional"] = Field(
        default="positional", description="Fourier features belong to the K-diffusion upscaler."
    )
    time_embedding_dim: int | None = None
    time_embedding_act_fn: Activation | None = None
    timestep_post_act: Activation | None = None
    time_cond_proj_dim: int | None = None
    conv_in_kernel: int = 3
    conv_out_kernel: int = 3
    attention_type: Literal["default"] = Field(default="default", description="Gated attention belongs to GLIGEN.")
    class_embeddings_concat: bool = False
    mid_block_only_cross_attention: bool | None = None  # as published, the blocks that are here do not read it
    cross_attention_norm: Literal[None] = Field(
        default=None, description="It belongs to the blocks of DeepFloyd IF and Kandinsky."
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        layers = self.transformer_layers_per_block
        nested = isinstance(layers, tuple) and any(isinstance(n, tuple) for n in layers)
        if nested and self.reverse_transformer_layers_per_block is None:
            key = "reverse_transformer_layers_per_block"
            yield key, "is missing: transformer_layers_per_block differs inside a level."

    def level_keys(self) -> tuple[str, ...]:
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
    """One resolution of the U-Net, going down or up."""

    channels: int
    resnets: int
    heads: int
    context_channels: int
    transformer_layers: tuple[int, ...]  # one entry for each residual block
    only_cross_attention: bool
    attends: bool


def down_levels(config: EncoderConfig) -> tuple[Level, ...]:
    """The levels from the largest to the smallest."""
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
            # A published misnomer that every checkpoint relies on: "attention_head_dim" is the number of heads.
            _each(heads, count),
            _each(config.cross_attention_dim, count),
            _each(config.transformer_layers_per_block, count),
            _each(config.only_cross_attention, count),
            strict=True,
        )
    )


def up_levels(config: UNet2DConditionConfig) -> tuple[Level, ...]:
    """The levels from the smallest to the largest: one more residual block each than going down."""
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
