"""ControlNet-Union: one control net for several kinds of control images, also at the same time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .config import Layers, Width
from .constants import NO_CONSTANTS, Constants
from .controlnet import ControlConfig, ControlEncoder, ControlNetOutput, EmbeddedImage, check_control_image
from .embeddings import Sinusoid, TimestepEmbedding
from .encoder_layers import quick_gelu
from .initialization import zero_init
from .unet_encoder import time_channels


class ControlNetUnionConfig(ControlConfig):
    """The published keys. `num_control_type` is the number of kinds of control images."""

    controlnet_conditioning_channel_order: Literal["rgb"] = "rgb"  # pyright: ignore[reportIncompatibleVariableOverride]  frozen, so it may be narrower
    conditioning_embedding_out_channels: tuple[Width, ...] = (48, 96, 192, 384)
    num_control_type: Width = 6
    num_trans_channel: Width = 320
    num_trans_head: Width = 8
    num_trans_layer: Layers = 1
    num_proj_channel: Width = 320

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the levels and the widths of the fusing transformer."""
        yield from super().problems()
        first = self.block_out_channels[0]
        for key in ("num_trans_channel", "num_proj_channel"):
            if getattr(self, key) != first:
                yield key, f"needs the width of the first level, {first}, got {getattr(self, key)}."
        if self.addition_time_embed_dim is None:
            yield "addition_time_embed_dim", "needs a number, got null: it is the width of the kinds' embedding."


class ControlNetUnionModel(ControlEncoder[ControlNetUnionConfig]):
    """A control net that also reads which kinds of control images there are (Xinsir 2024, "ControlNet++").

    The features of all images are summed. Each is shifted by the output of a small transformer for its mean. Parameter
    names and config keys are published.
    """

    config_class = ControlNetUnionConfig

    def build(self, config: ControlNetUnionConfig) -> None:
        """Make the layers."""
        self.build_control(config)
        width, kinds, waves = config.num_trans_channel, config.num_control_type, config.addition_time_embed_dim or 0
        self.task_embedding = nn.Parameter(math.sqrt(width) * torch.randn(kinds, width))
        # Published with this spelling.
        self.transformer_layes = nn.ModuleList(
            TokenBlock(width, config.num_trans_head) for _ in range(config.num_trans_layer)
        )
        self.spatial_ch_projs = zero_init(nn.Linear(width, config.num_proj_channel))
        self.control_type_proj = Sinusoid(waves, flip=config.flip_sin_to_cos, shift=config.freq_shift)
        self.control_add_embedding = TimestepEmbedding(waves * kinds, time_channels(config.unet))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Sequence[Tensor | EmbeddedImage],
        control_type: Tensor,
        control_type_idx: Sequence[int],
        conditioning_scale: float | Sequence[float] = 1.0,
        *,
        class_labels: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        guess_mode: bool = False,
        constants: Constants = NO_CONSTANTS,
    ) -> ControlNetOutput:
        """Compute residuals for a U-Net, from noisy latents and control images of some kinds.

        The arguments that are not listed are those of `ControlNetModel`.

        Args:
            controlnet_cond: the control images, each `b c rows columns` as `ControlNetModel` takes one, or results of
                `embed_image`.
            control_type: `b k`, 1 for the kinds of these images and 0 for the others.
            control_type_idx: the kind of each image.
            conditioning_scale: one for all, or one for each image. It is a factor of the features of each image, or for
                a single image of all residuals.

        Raises:
            UnfitValue: as `ControlNetModel`; unequal numbers of images, kinds and scales.
        """
        count = len(controlnet_cond)
        each = [conditioning_scale] * count if isinstance(conditioning_scale, int | float) else conditioning_scale
        if not count or not count == len(control_type_idx) == len(each):
            raise UnfitValue(
                f"Needs one kind and one scale for each control image, got {count} images, {len(control_type_idx)} "
                f"kinds and {len(each)} scales."
            )
        if control_type.shape != (needed := (len(sample), self.config.num_control_type)):
            raise UnfitValue(f"control_type needs shape {needed}, got {tuple(control_type.shape)}.")
        scales, total = (each, 1.0) if count > 1 else ([1.0], each[0])
        waves, layer = self.control_type_proj, self.control_add_embedding
        more = constants.of(
            layer, lambda: layer(waves(control_type.flatten()).reshape(len(sample), -1).to(sample.dtype))
        )
        emb = self.embed(sample, timestep, class_labels, added=added_cond_kwargs, more=more, constants=constants)
        prompt = self.project_prompt(encoder_hidden_states, encoder_attention_mask, constants)
        parts: list[Tensor] = []
        for image, kind, scale in zip(controlnet_cond, control_type_idx, scales, strict=True):
            if not isinstance(image, EmbeddedImage):
                check_control_image(self, image, sample)
                image = self.embed_image(image, kind, scale)
            parts.append(image.features)
        x = self.conv_in(sample) + torch.stack(parts).sum(0)
        return self.residuals(x, emb, prompt, total, guess_mode)

    def embed_image(self, image: Tensor, kind: int, scale: float) -> EmbeddedImage:
        """Embed control images `b c rows columns` of one kind, to pass them in every step.

        scale: of several images; 1 for a single one, whose scale is a factor of all residuals.
        """
        features = self.controlnet_cond_embedding(image)  # b c h w
        token = (features.mean((2, 3)) + self.task_embedding[kind]) * scale  # b c
        for layer in self.transformer_layes:
            token = layer(token)
        return EmbeddedImage((features + self.spatial_ch_projs(token)[:, :, None, None]) * scale)


class TokenBlock(nn.Module):
    """A transformer layer as published: attention, then an MLP with a quick GELU."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(channels, channels * 4), "c_proj": nn.Linear(channels * 4, channels)}
        )
        self.ln_2 = nn.LayerNorm(channels)

    def forward(self, token: Tensor) -> Tensor:
        """Map `b c`.

        The published layer mistakes its batch for the sequence: a token attends to the rows of the batch, and not to
        other tokens. With one image in the batch it attends to itself alone, so that the output of attention is its
        value. Each row gets this output, whatever the size of the batch.
        """
        attention = self.attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        channels = token.shape[-1]
        value = nn.functional.linear(self.ln_1(token), weight[2 * channels :], bias[2 * channels :])
        token = token + attention.out_proj(value)
        hidden = self.mlp["c_fc"](self.ln_2(token))
        return token + self.mlp["c_proj"](quick_gelu(hidden))
