"""The U-Net of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .activations import activation
from .attention import BasicTransformerBlock, TransformerStyle
from .base import Model
from .embeddings import Sinusoid, TimestepEmbedding, text_and_sizes
from .resnet import ResnetStyle
from .taps import Perturbable
from .unet_blocks import DownBlock, MidBlock, UpBlock
from .unet_config import Level, UNet2DConditionConfig, down_levels, up_levels


class UNet2DConditionModel(Model[UNet2DConditionConfig]):
    """Predicts noise (or velocity, or the sample) from noisy latents, a time and a prompt.

    Ronneberger et al. 2015 with the residual blocks of Ho et al. 2020 (appendix B) and the transformers of Rombach et
    al. 2022 (section 3.3); sizes and pooled prompt as in Podell et al. 2023. Parameter names and config keys are the
    published ones.
    """

    config_class = UNet2DConditionConfig

    def build(self, config: UNet2DConditionConfig) -> None:
        channels = config.block_out_channels
        time_channels = config.time_embedding_dim or channels[0] * 4
        self.center_input_sample = config.center_input_sample
        self.conv_in = nn.Conv2d(
            config.in_channels, channels[0], config.conv_in_kernel, padding=(config.conv_in_kernel - 1) // 2
        )
        self._build_embeddings(config, time_channels)
        style = ResnetStyle(
            groups=config.norm_num_groups,
            eps=config.norm_eps,
            act=config.act_fn,
            time_channels=time_channels * (2 if config.class_embeddings_concat else 1),
            time=config.resnet_time_scale_shift,
            dropout=config.dropout,
        )
        self._build_levels(config, style)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, channels[0], eps=config.norm_eps)
        self.conv_act = activation(config.act_fn)
        self.conv_out = nn.Conv2d(
            channels[0], config.out_channels, config.conv_out_kernel, padding=(config.conv_out_kernel - 1) // 2
        )

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

    def _build_levels(self, config: UNet2DConditionConfig, style: ResnetStyle) -> None:
        def attention(level: Level) -> TransformerStyle:
            return TransformerStyle(
                heads=level.heads,
                context_channels=level.context_channels,
                linear_projection=config.use_linear_projection,
                only_cross_attention=level.only_cross_attention,
                groups=config.norm_num_groups,
            )

        downs, ups = down_levels(config), up_levels(config)
        channels = downs[0].channels
        skips = [channels]
        self.down_blocks = nn.ModuleList()
        for level in downs:
            last = level is downs[-1]
            block = DownBlock(
                channels,
                level.channels,
                level.transformer_layers,
                style=style,
                attention=attention(level) if level.attends else None,
                padding=None if last else config.downsample_padding,
            )
            self.down_blocks.append(block)
            skips += [level.channels] * (level.resnets + (not last))
            channels = level.channels
        bottom = downs[-1]
        self.mid_block = None
        if config.mid_block_type is not None:
            self.mid_block = MidBlock(
                channels,
                bottom.transformer_layers[:1],
                style=replace(style, divisor=float(config.mid_block_scale_factor)),
                attention=attention(bottom) if config.mid_block_type == "UNetMidBlock2DCrossAttn" else None,
            )
        self.up_blocks = nn.ModuleList()
        for level in ups:
            block = UpBlock(
                channels,
                level.channels,
                [skips.pop() for _ in range(level.resnets)],
                level.transformer_layers,
                style=style,
                attention=attention(level) if level.attends else None,
                grows=level is not ups[-1],
            )
            self.up_blocks.append(block)
            channels = level.channels

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        *,
        class_labels: Tensor | None = None,
        timestep_cond: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Tensor:
        """The prediction for noisy latents.

        Args:
            sample: `b c h w`, scaled as the scheduler says. Any height and width.
            timestep: one number, or one for each row. Give a tensor on the model's device under `torch.compile`.
            encoder_hidden_states: the prompt, `b m k`.
            class_labels: `b`, for models with a class embedding (x4 upscaler, unCLIP).
            timestep_cond: `b c`, the embedded guidance scale of LCM.
            encoder_attention_mask: `b m`, 1 where a token counts and 0 where it is padding.
            added_cond_kwargs: `text_embeds` `b c` and `time_ids` `b n`, for SDXL.
            down_block_additional_residuals: added to what goes across, first the input convolution's, then for each
                level its residual blocks' and its downsampler's (Zhang et al. 2023, section 3.1).
            mid_block_additional_residual: added after the middle.

        Returns:
            `b c h w`, with the config's out_channels.

        Raises:
            TypeError: an input that this model needs and did not get, or got and has no place for.
        """
        if self.center_input_sample:
            sample = 2 * sample - 1
        emb = self.embed(sample, timestep, class_labels, timestep_cond, added_cond_kwargs)
        context = encoder_hidden_states
        if self.encoder_hid_proj is not None:
            context = self.encoder_hid_proj(context)
        mask = None
        if encoder_attention_mask is not None:
            # Published: -10000 rather than -inf, so that a prompt of padding alone gives numbers and not NaN.
            mask = ((1 - encoder_attention_mask.to(sample.dtype)) * -10000.0)[:, None, None]  # b 1 1 m
        x = self.conv_in(sample)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips, emb, context, mask)
        if down_block_additional_residuals is not None:
            skips = _added(skips, down_block_additional_residuals)
        if self.mid_block is not None:
            x = self.mid_block(x, emb, context, mask)
        if mid_block_additional_residual is not None:
            x = x + mid_block_additional_residual
        for block in self.up_blocks:
            x = block(x, skips, emb, context, mask)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def perturbable_layers(self) -> Perturbable:
        """Its transformer blocks; usually the middle's are perturbed (Ahn et al. 2024), else the deepest."""
        inside = [*self.down_blocks.named_modules(prefix="down_blocks")]
        if self.mid_block is not None:
            inside += self.mid_block.named_modules(prefix="mid_block")
        inside += self.up_blocks.named_modules(prefix="up_blocks")
        found = {path: m for path, m in inside if isinstance(m, BasicTransformerBlock)}
        middle = [path for path in found if path.startswith("mid_block.")]
        deepest = [path for path in found if path.startswith("down_blocks.")][-1:]
        attending = [path for path, block in found.items() if not block.only_cross_attention]
        return Perturbable(list(found), middle or deepest or list(found)[:1], attending)

    def embed(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None,
        timestep_cond: Tensor | None,
        added: Mapping[str, Tensor] | None,
    ) -> Tensor:
        """Time, class and added conditions as one activated vector `b e`.

        It is activated here, once, where the published code does it again in each of its 22 to 45 residual blocks.
        """
        rows, dtype = sample.shape[0], sample.dtype
        if isinstance(timestep, Tensor):
            times = timestep.to(sample.device, non_blocking=True).expand(rows)
        else:
            times = torch.full((rows,), timestep, dtype=torch.float32, device=sample.device)
        emb = self.time_embedding(self.time_proj(times).to(dtype), timestep_cond)
        if (self.class_embedding is None) != (class_labels is None):
            raise TypeError("class_labels is missing." if class_labels is None else "class_labels has no place here.")
        if self.class_embedding is not None and class_labels is not None:
            labels = self.time_proj(class_labels).to(dtype) if self.class_is_time else class_labels
            extra = self.class_embedding(labels).to(dtype)
            emb = torch.cat([emb, extra], dim=-1) if self.joins_class else emb + extra
        if self.add_embedding is not None and self.add_time_proj is not None:
            emb = emb + self.add_embedding(text_and_sizes(added, self.add_time_proj).to(dtype))
        if self.time_embed_act is not None:
            emb = self.time_embed_act(emb)
        return self.emb_act(emb)


def _class_embedding(config: UNet2DConditionConfig, waves: int, width: int) -> nn.Module | None:
    """`waves` and `width` are the channels of the time waves and of the embedding."""
    given = config.projection_class_embeddings_input_dim or 0  # the config has seen to it where it is needed
    match config.class_embed_type:
        case None:
            return None if config.num_class_embeds is None else nn.Embedding(config.num_class_embeds, width)
        case "timestep":
            return TimestepEmbedding(waves, width, act=config.act_fn)
        case "identity":
            return nn.Identity()
        case "projection":
            return TimestepEmbedding(given, width)
        case "simple_projection":
            return nn.Linear(given, width)


def _added(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    if len(skips) != len(residuals):
        raise TypeError(
            f"down_block_additional_residuals has {len(residuals)} tensors, but this U-Net takes {len(skips)}: "
            "the control net was made for another one."
        )
    return [skip + residual for skip, residual in zip(skips, residuals, strict=True)]
