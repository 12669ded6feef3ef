"""ControlNet-Union: one control net for many kinds of pictures, several at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from .controlnet import ControlConfig, ControlEncoder, ControlNetOutput, check_control_image, zeros
from .embeddings import Sinusoid, TimestepEmbedding
from .unet_encoder import time_channels


class ControlNetUnionConfig(ControlConfig):
    """Keys and defaults as published."""

    controlnet_conditioning_channel_order: Literal["rgb"] = "rgb"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen, so it may be narrower
    conditioning_embedding_out_channels: tuple[int, ...] = (48, 96, 192, 384)
    num_control_type: int = 6
    num_trans_channel: int = 320
    num_trans_head: int = 8
    num_trans_layer: int = 1
    num_proj_channel: int = 320

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        first = self.block_out_channels[0]
        for key in ("num_trans_channel", "num_proj_channel"):
            if getattr(self, key) != first:
                yield key, f"is {getattr(self, key)}, but the features of the pictures have {first} channels."
        if self.addition_time_embed_dim is None:
            yield "addition_time_embed_dim", "is missing: the kinds of pictures are embedded so wide."


class ControlNetUnionModel(ControlEncoder[ControlNetUnionConfig]):
    """A control net that is told which kinds of pictures it sees (Xinsir 2024, "ControlNet++").

    The features of all pictures are summed, each shifted by what a small transformer says of the means of all.
    Parameter names and config keys are the published ones.
    """

    config_class = ControlNetUnionConfig

    def build(self, config: ControlNetUnionConfig) -> None:
        self.build_control(config)
        width, kinds, waves = config.num_trans_channel, config.num_control_type, config.addition_time_embed_dim or 0
        self.task_embedding = nn.Parameter(math.sqrt(width) * torch.randn(kinds, width))
        # The name is published so.
        self.transformer_layes = nn.ModuleList(
            TokenBlock(width, config.num_trans_head) for _ in range(config.num_trans_layer)
        )
        self.spatial_ch_projs = zeros(nn.Linear(width, config.num_proj_channel))
        self.control_type_proj = Sinusoid(waves, flip=config.flip_sin_to_cos, shift=config.freq_shift)
        self.control_add_embedding = TimestepEmbedding(waves * kinds, time_channels(config.unet))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor],
        control_type: Tensor,
        control_type_idx: Sequence[int],
        conditioning_scale: float | Sequence[float] = 1.0,
        *,
        class_labels: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        guess_mode: bool = False,
    ) -> ControlNetOutput:
        """What to add to the U-Net, for noisy latents and pictures of some kinds.

        Args:
            controlnet_cond: the pictures, each `b c rows columns` as `ControlNetModel` takes one.
            control_type: `b k`, 1 for the kinds that are there and 0 for the others.
            control_type_idx: the kind of each picture.
            conditioning_scale: one for all, or one for each picture. For a single picture all that is added is
                multiplied by it; of several, the features of each.

        Raises:
            TypeError, ValueError: as `ControlNetModel`; unequal numbers of pictures, kinds and scales.
        """
        count = len(controlnet_cond)
        given = [conditioning_scale] * count if isinstance(conditioning_scale, int | float) else conditioning_scale
        if not count or not count == len(control_type_idx) == len(given):
            raise ValueError(
                f"{count} pictures, {len(control_type_idx)} kinds and {len(given)} scales came. Give one of each for "
                "each picture."
            )
        if control_type.shape != (len(sample), self.config.num_control_type):
            wanted = f"{len(sample)} x {self.config.num_control_type}"
            raise ValueError(f"control_type is {' x '.join(map(str, control_type.shape))}. Wanted: {wanted}.")
        scales, total = (given, 1.0) if count > 1 else ([1.0], given[0])
        kinds = self.control_type_proj(control_type.flatten()).reshape(len(sample), -1)
        more = self.control_add_embedding(kinds.to(sample.dtype))
        emb = self.embed(sample, timestep, class_labels, added=added_cond_kwargs, more=more)
        context, mask = self.project_prompt(encoder_hidden_states, encoder_attention_mask)
        for picture in controlnet_cond:
            check_control_image(self, picture, sample)
        x = self.conv_in(sample)
        x = x + self._fused(controlnet_cond, control_type_idx, scales)
        return self.control(x, emb, context, mask, total, guess_mode)

    def _fused(self, pictures: Sequence[Tensor], kinds: Sequence[int], scales: Sequence[float]) -> Tensor:
        parts: list[Tensor] = []
        for picture, kind, scale in zip(pictures, kinds, scales, strict=True):
            features = self.controlnet_cond_embedding(picture)  # b c h w
            token = (features.mean((2, 3)) + self.task_embedding[kind]) * scale  # b c
            for layer in self.transformer_layes:
                token = layer(token)
            parts.append((features + self.spatial_ch_projs(token)[:, :, None, None]) * scale)
        return torch.stack(parts).sum(0)


class TokenBlock(nn.Module):
    """A transformer layer, as published: attention, then a feed-forward part with a quick GELU."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(channels, channels * 4), "c_proj": nn.Linear(channels * 4, channels)}
        )
        self.ln_2 = nn.LayerNorm(channels)

    def forward(self, token: Tensor) -> Tensor:
        """Maps `b c`.

        The published layer takes its batch for the sequence: a token looks at the same token of the other rows of the
        batch, and never at other tokens. With one picture in the batch that is itself alone, so what attention gives
        is the value. We give each row what it has alone, so that rows do not see each other.
        """
        attention = self.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        channels = token.shape[-1]
        value = nn.functional.linear(self.ln_1(token), weight[2 * channels :], bias[2 * channels :])
        token = token + attention.out_proj(value)
        hidden = self.mlp["c_fc"](self.ln_2(token))
        return token + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
