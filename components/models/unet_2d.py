"""The U-Net of unconditional models: it reads noisy pixels or latents and a time, and no prompt."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field
from torch import Tensor, cat, nn

from .activations import Activation, activation
from .base import Model
from .config import Chance, Config, Epsilon, Layers, Rows, Scale, Width
from .embeddings import Sinusoid, TimestepEmbedding
from .resnet import Downsample2D, ResnetStyle, Upsample2D, resnet
from .vae import PixelAttention

_OLD_ATTENTION = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_DDPM = "Other blocks belong to models of scores and to super-resolution."


class UNet2DConfig(Config):
    """The published keys. Values that only other kinds of models have are refused."""

    sample_size: Rows | tuple[Rows, Rows] | None = None
    in_channels: Width = 3
    out_channels: Width = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = Field(
        default="positional", description="Fourier and learned features belong to models of scores."
    )
    time_embedding_dim: Width | None = None
    freq_shift: float = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...] = Field(
        default=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), description=_DDPM
    )
    mid_block_type: Literal["UNetMidBlock2D"] = "UNetMidBlock2D"
    up_block_types: tuple[Literal["UpBlock2D", "AttnUpBlock2D"], ...] = Field(
        default=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), description=_DDPM
    )
    block_out_channels: tuple[Width, ...] = (224, 448, 672, 896)
    layers_per_block: Layers = 2
    mid_block_scale_factor: Scale = 1
    downsample_padding: Layers = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: Chance = 0.0
    act_fn: Activation = "silu"
    attention_head_dim: Width | None = 8
    norm_num_groups: Width = 32
    attn_norm_num_groups: Width | None = None
    norm_eps: Epsilon = 1e-5
    resnet_time_scale_shift: Literal["default"] = "default"
    add_attention: bool = True
    class_embed_type: Literal[None] = Field(default=None, description="Models of classes are not supported.")
    num_class_embeds: Literal[None] = Field(default=None, description="Models of classes are not supported.")
    num_train_timesteps: Rows | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the numbers of levels, heads and groups."""
        count = len(self.block_out_channels)
        for key in ("down_block_types", "up_block_types"):
            if len(getattr(self, key)) != count:
                yield key, f"needs {count} entries, as block_out_channels has, got {len(getattr(self, key))}."
        for channels in dict.fromkeys(self.block_out_channels):
            if channels % self.norm_num_groups:
                yield "norm_num_groups", f"needs to divide {channels} channels, got {self.norm_num_groups}."
            if self.attention_head_dim and channels % self.attention_head_dim:
                yield "attention_head_dim", f"needs to divide {channels} channels, got {self.attention_head_dim}."


@dataclass(frozen=True)
class _Style:
    """What all levels share. head_dim: channels of a head; None for one head."""

    resnets: ResnetStyle
    head_dim: int | None

    def attention(self, channels: int, groups: int) -> PixelAttention:
        return PixelAttention(channels, groups, channels // (self.head_dim or channels), self.resnets.eps)

    def attentions(self, channels: int, count: int) -> nn.ModuleList:
        return nn.ModuleList(self.attention(channels, self.resnets.groups) for _ in range(count))


class _Level(nn.Module):
    """Residual blocks, with attention after each or without, then a layer that changes the size, or none."""

    def __init__(self, inputs: Sequence[int], channels: int, style: _Style, attends: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnet(n, channels, style.resnets) for n in inputs)
        self.attentions = style.attentions(channels, len(inputs) if attends else 0)

    def layer(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        """Apply a residual block and its attention."""
        x = self.resnets[i](x, emb)
        return self.attentions[i](x) if len(self.attentions) else x


class _Down(_Level):
    def __init__(self, inputs: Sequence[int], channels: int, style: _Style, attends: bool, padding: int | None) -> None:
        super().__init__(inputs, channels, style, attends)
        self.downsamplers = nn.ModuleList([] if padding is None else [Downsample2D(channels, padding)])

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Map `b c h w`, and append each result to `skips`."""
        for i in range(len(self.resnets)):
            x = self.layer(i, x, emb)
            skips.append(x)
        for down in self.downsamplers:
            x = down(x)
            skips.append(x)
        return x


class _Up(_Level):
    def __init__(self, inputs: Sequence[int], channels: int, style: _Style, attends: bool, grows: bool) -> None:
        super().__init__(inputs, channels, style, attends)
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if grows else [])

    def forward(self, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
        """Map `b c h w`. Skips are removed from the end of `skips`; the next one sets the new size."""
        for i in range(len(self.resnets)):
            x = self.layer(i, cat([x, skips.pop()], 1), emb)
        for up in self.upsamplers:
            x = up(x, (skips[-1].shape[2], skips[-1].shape[3]))
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int, style: _Style, groups: int, attends: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([style.attention(channels, groups)] if attends else [])
        self.resnets = nn.ModuleList(resnet(channels, channels, style.resnets) for _ in range(2))
        self.divisor = style.resnets.divisor

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map `b c h w`."""
        x = self.resnets[0](x, emb)
        for attention in self.attentions:
            x = attention(x) / self.divisor
        return self.resnets[1](x, emb)


class UNet2DModel(Model[UNet2DConfig]):
    """Predicts noise (or velocity, or the sample) from noisy pixels and a time, without a prompt (Ho et al. 2020).

    Parameter names and config keys are published. `attention_head_dim` is the number of channels of a head, or
    null for one head.
    """

    config_class = UNet2DConfig
    takes_backend = True

    def build(self, config: UNet2DConfig) -> None:
        """Make the layers."""
        channels = config.block_out_channels
        width = config.time_embedding_dim or channels[0] * 4
        plain = ResnetStyle(
            config.norm_num_groups, config.norm_eps, config.act_fn, time_channels=width, dropout=config.dropout
        )
        style = _Style(plain, config.attention_head_dim)
        self.center_input_sample = config.center_input_sample
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_proj = Sinusoid(channels[0], flip=config.flip_sin_to_cos, shift=config.freq_shift)
        self.time_embedding = TimestepEmbedding(channels[0], width)
        self.emb_act = activation(config.act_fn)
        skips = self._build_down(config, style)
        middle = _Style(replace(plain, divisor=float(config.mid_block_scale_factor)), style.head_dim)
        groups = config.attn_norm_num_groups or config.norm_num_groups
        self.mid_block = _Middle(channels[-1], middle, groups, config.add_attention)
        self._build_up(config, style, skips)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], eps=config.norm_eps)
        self.conv_act = activation("silu")
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)

    def _build_down(self, config: UNet2DConfig, style: _Style) -> list[int]:
        """Make the down levels; return the channels of the skips."""
        before, skips = config.block_out_channels[0], [config.block_out_channels[0]]
        self.down_blocks = nn.ModuleList()
        for i, (channels, kind) in enumerate(zip(config.block_out_channels, config.down_block_types, strict=True)):
            last = i == len(config.block_out_channels) - 1
            inputs = [before, *[channels] * (config.layers_per_block - 1)]
            padding = None if last else config.downsample_padding
            self.down_blocks.append(_Down(inputs, channels, style, kind == "AttnDownBlock2D", padding))
            skips += [channels] * (config.layers_per_block + (not last))
            before = channels
        return skips

    def _build_up(self, config: UNet2DConfig, style: _Style, skips: list[int]) -> None:
        before = config.block_out_channels[-1]
        self.up_blocks = nn.ModuleList()
        for i, (channels, kind) in enumerate(zip(config.block_out_channels[::-1], config.up_block_types, strict=True)):
            inputs = [before, *[channels] * config.layers_per_block]
            joined = [n + skips.pop() for n in inputs]
            grows = i < len(config.block_out_channels) - 1
            self.up_blocks.append(_Up(joined, channels, style, kind == "AttnUpBlock2D", grows))
            before = channels

    def forward(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Predict noise, or what the scheduler's `prediction_type` names, for pixels or latents `b c h w`.

        Args:
            sample: scaled by the scheduler.
            timestep: one number, or one for each row.
        """
        if self.center_input_sample:
            sample = 2 * sample - 1
        times = timestep if isinstance(timestep, Tensor) else sample.new_tensor(timestep)
        waves = self.time_proj(times.to(sample.device).expand(len(sample)))
        emb = self.emb_act(self.time_embedding(waves.to(sample.dtype)))
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips, emb)
        x = self.mid_block(x, emb)
        for block in self.up_blocks:
            x = block(x, skips, emb)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Rename the layers of attention in files from before diffusers 0.15."""
        return _OLD_ATTENTION.sub(lambda found: f"{found[1]}.{_NEW_NAMES[found[2]]}.", name)
