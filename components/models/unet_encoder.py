"""The encoder of a U-Net: embeddings, down levels and the middle. Control nets have it too."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .activations import activation
from .attention import Prompt, TransformerStyle, prompt_mask
from .base import Model
from .constants import NO_CONSTANTS, Constants
from .embeddings import Sinusoid, TimestepEmbedding, check_input, text_and_sizes
from .resnet import ResnetStyle
from .unet_blocks import DownBlock, MidBlock, add_residual
from .unet_config import Level, UNet2DConditionConfig, UNetEncoderConfig, down_levels

C = TypeVar("C", bound=UNetEncoderConfig)


class UNetEncoder(Model[C]):
    """Base of U-Nets and control nets. A subclass calls `build_encoder` in its `build`."""

    takes_backend = True

    def build_encoder(self, config: UNet2DConditionConfig) -> None:
        """Make the input convolution, the embeddings, the down levels and the middle."""
        first = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(
            config.in_channels, first, config.conv_in_kernel, padding=(config.conv_in_kernel - 1) // 2
        )
        self._build_embeddings(config, time_channels(config))
        self._build_levels(config)

    def _build_embeddings(self, config: UNet2DConditionConfig, width: int) -> None:
        waves = Sinusoid(config.block_out_channels[0], flip=config.flip_sin_to_cos, shift=config.freq_shift)
        self.time_proj = waves
        self.time_embedding = TimestepEmbedding(
            waves.channels,
            width,
            act=config.act_fn,
            post_act=config.timestep_post_act,
            condition_channels=config.time_cond_proj_dim,
        )
        self.time_embed_act = activation(config.time_embedding_act_fn) if config.time_embedding_act_fn else None
        self.emb_act = activation(config.act_fn)
        self.class_embedding = _class_embedding(config, waves.channels, width)
        self.class_is_time = config.class_embed_type == "timestep"
        self.joins_class = config.class_embeddings_concat
        self.add_time_proj, self.add_embedding = None, None
        if config.addition_embed_type == "text_time":
            self.add_time_proj = Sinusoid(config.addition_time_embed_dim or 0, flip=waves.flip, shift=waves.shift)
            self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim or 0, width)
        self.encoder_hid_proj = None
        if config.encoder_hid_dim is not None:  # as published, the type may be left out
            context = config.cross_attention_dim
            context = context if isinstance(context, int) else context[0]
            self.encoder_hid_proj = nn.Linear(config.encoder_hid_dim, context)

    def _build_levels(self, config: UNet2DConditionConfig) -> None:
        style, levels = resnet_style(config), down_levels(config)
        channels = levels[0].channels
        self.skip_channels = [channels]
        self.down_blocks = nn.ModuleList()
        for level in levels:
            last = level is levels[-1]
            block = DownBlock(
                channels,
                level.channels,
                level.transformer_layers,
                style=style,
                attention=transformer_style(config, level),
                padding=None if last else config.downsample_padding,
            )
            self.down_blocks.append(block)
            self.skip_channels += [level.channels] * (level.resnets + (not last))
            channels = level.channels
        bottom = levels[-1]
        self.mid_block = None
        if config.mid_block_type is not None:
            attends = config.mid_block_type == "UNetMidBlock2DCrossAttn"
            self.mid_block = MidBlock(
                channels,
                bottom.transformer_layers[:1],
                style=replace(style, divisor=float(config.mid_block_scale_factor)),
                # As published, the middle has self-attention, whatever the levels have.
                attention=transformer_style(config, replace(bottom, attends=attends, only_cross_attention=False)),
            )

    def embed(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        added: Mapping[str, Tensor] | None = None,
        more: Tensor | None = None,
        constants: Constants = NO_CONSTANTS,
    ) -> Tensor:
        """Embed times, class, added conditions and `more` `b e` as one activated vector `b e`.

        It is activated once, where the published code does it again in each of its 22 to 45 residual blocks.

        Raises:
            UnfitValue: an input that is missing, or that the model does not read.
        """
        rows, dtype = sample.shape[0], sample.dtype
        if isinstance(timestep, Tensor):
            times = timestep.to(sample.device, non_blocking=True).expand(rows)
        else:
            times = torch.full((rows,), timestep, dtype=torch.float32, device=sample.device)
        emb = self.time_embedding(self.time_proj(times, constants).to(dtype), timestep_cond)
        check_input("class_labels", class_labels, self.class_embedding, "class_embed_type")
        if self.class_embedding is not None and class_labels is not None:
            labels = self.time_proj(class_labels).to(dtype) if self.class_is_time else class_labels
            extra = self.class_embedding(labels).to(dtype)
            emb = torch.cat([emb, extra], dim=-1) if self.joins_class else emb + extra
        if more is not None:
            emb = emb + more
        if self.add_embedding is not None and self.add_time_proj is not None:
            layer, waves = self.add_embedding, self.add_time_proj
            emb = emb + constants.of(layer, lambda: layer(text_and_sizes(added, waves).to(dtype)))
        if self.time_embed_act is not None:
            emb = self.time_embed_act(emb)
        return self.emb_act(emb)

    def project_prompt(
        self, encoder_hidden_states: Tensor, mask: Tensor | None, constants: Constants = NO_CONSTANTS
    ) -> Prompt:
        """Project the prompt `b m k` for the layers, and turn a mask `b m` into a term of the scores `b 1 1 m`."""
        context = encoder_hidden_states
        if self.encoder_hid_proj is not None:
            context = constants.output(self.encoder_hid_proj, context)
        return Prompt(context, constants.named("mask", lambda: prompt_mask(mask, context.dtype)), constants)

    def encode(
        self,
        x: Tensor,
        emb: Tensor,
        prompt: Prompt,
        features: Sequence[Tensor] | None = None,
        skips: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the output of the middle and the skips, the largest first.

        `skips` are those of the first residual blocks, where these ran already, and that of the input convolution.
        `features` are added inside the levels: one for each, and optionally one more for the output of the middle.

        Raises:
            UnfitValue: features of another U-Net.
        """
        levels = len(self.down_blocks)
        if features is not None and len(features) not in (levels, levels + 1):
            raise UnfitValue(
                f"down_intrablock_additional_residuals needs {levels} tensors, or one more for the middle, got "
                f"{len(features)}: the adapter was made for another U-Net."
            )
        *inside, middle = [*(features or ()), *[None] * (levels + 1)][: levels + 1]
        skips = [x] if skips is None else skips
        start = len(skips) - 1
        for block, feature in zip(self.down_blocks, inside, strict=True):
            x = block(x, skips, emb, prompt, feature, start)
            start = 0
        if self.mid_block is not None:
            x = self.mid_block(x, emb, prompt)
        return add_residual("down_intrablock_additional_residuals", x, middle), skips


def time_channels(config: UNet2DConditionConfig) -> int:
    """Return the width of the time embedding."""
    return config.time_embedding_dim or config.block_out_channels[0] * 4


def resnet_style(config: UNet2DConditionConfig) -> ResnetStyle:
    """Return what all residual blocks of a U-Net have in common."""
    return ResnetStyle(
        groups=config.norm_num_groups,
        eps=config.norm_eps,
        act=config.act_fn,
        time_channels=time_channels(config) * (2 if config.class_embeddings_concat else 1),
        time=config.resnet_time_scale_shift,
        dropout=config.dropout,
    )


def transformer_style(config: UNet2DConditionConfig, level: Level) -> TransformerStyle | None:
    """Return what the transformers of a level have in common; None for a level without attention."""
    if not level.attends:
        return None
    return TransformerStyle(
        heads=level.heads,
        context_channels=level.context_channels,
        linear_projection=config.use_linear_projection,
        only_cross_attention=level.only_cross_attention,
        groups=config.norm_num_groups,
    )


def _class_embedding(config: UNet2DConditionConfig, waves: int, width: int) -> nn.Module | None:
    """`waves` and `width` are the channels of the time sinusoid and of the embedding."""
    projected = config.projection_class_embeddings_input_dim or 0  # the config checks that it is set where it is used
    match config.class_embed_type:
        case None:
            return None if config.num_class_embeds is None else nn.Embedding(config.num_class_embeds, width)
        case "timestep":
            return TimestepEmbedding(waves, width, act=config.act_fn)
        case "identity":
            return nn.Identity()
        case "projection":
            return TimestepEmbedding(projected, width)
        case "simple_projection":
            return nn.Linear(projected, width)
