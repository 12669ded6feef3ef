"""The U-Net of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .activations import activation
from .attention import BasicTransformerBlock
from .perturbable import PerturbableLayers
from .unet_blocks import UpBlock, add_residual
from .unet_config import UNet2DConditionConfig, up_levels
from .unet_encoder import UNetEncoder, resnet_style, transformer_style


class UNet2DConditionModel(UNetEncoder[UNet2DConditionConfig]):
    """Predicts noise (or velocity, or the sample) from noisy latents, a time and a prompt.

    Ronneberger et al. 2015, with the residual blocks of Ho et al. 2020 (appendix B) and the transformers of Rombach et
    al. 2022 (section 3.3); sizes and pooled prompt as in Podell et al. 2023 (section 2.2). Parameter names and config
    keys are published. Config keys that differ between checkpoints: `in_channels` is 9 for inpainting,
    `cross_attention_dim` is the prompt's width, `addition_embed_type` is "text_time" for SDXL, and
    `attention_head_dim` is the number of heads, in spite of its name.
    """

    config_class = UNet2DConditionConfig

    def build(self, config: UNet2DConditionConfig) -> None:
        """Make the layers."""
        self.center_input_sample = config.center_input_sample
        self.build_encoder(config)
        self._build_up(config)
        first = config.block_out_channels[0]
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, first, eps=config.norm_eps)
        self.conv_act = activation(config.act_fn)
        self.conv_out = nn.Conv2d(
            first, config.out_channels, config.conv_out_kernel, padding=(config.conv_out_kernel - 1) // 2
        )

    def _build_up(self, config: UNet2DConditionConfig) -> None:
        style, levels, skips = resnet_style(config), up_levels(config), list(self.skip_channels)
        channels = levels[0].channels
        self.up_blocks = nn.ModuleList()
        for level in levels:
            block = UpBlock(
                channels,
                level.channels,
                [skips.pop() for _ in range(level.resnets)],
                level.transformer_layers,
                style=style,
                attention=transformer_style(config, level),
                grows=level is not levels[-1],
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
        down_intrablock_additional_residuals: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Predict noise for noisy latents, or what the scheduler's `prediction_type` names.

        Args:
            sample: latents `b c h w` of any size, scaled by the scheduler.
            timestep: one number, or one for each row. Under `torch.compile`, a tensor on the model's device.
            encoder_hidden_states: the prompt, `b m k`.
            class_labels: `b`, for models with a class embedding (x4 upscaler, unCLIP).
            timestep_cond: `b c`, the embedded guidance scale of LCM.
            encoder_attention_mask: `b m`, 0 for tokens that are ignored.
            added_cond_kwargs: `text_embeds` `b c` and `time_ids` `b n`, for SDXL.
            down_block_additional_residuals: added to the skips: first that of the input convolution, then for each
                level those of its residual blocks and of its downsampler (Zhang et al. 2023, section 3.1).
            mid_block_additional_residual: added to the output of the middle.
            down_intrablock_additional_residuals: features of a T2I-Adapter (Mou et al. 2023, section 3.2): one for each
                down level, added inside it, and optionally one more for the output of the middle.

        Returns:
            `b c h w`, with the config's out_channels.

        Raises:
            UnfitValue: an input that is missing, that the model does not read, or that does not fit.
        """
        if self.center_input_sample:
            sample = 2 * sample - 1
        emb = self.embed(sample, timestep, class_labels, timestep_cond, added_cond_kwargs)
        context, mask = self.project_prompt(encoder_hidden_states, encoder_attention_mask)
        x, skips = self.encode(self.conv_in(sample), emb, context, mask, down_intrablock_additional_residuals)
        if down_block_additional_residuals is not None:
            skips = _add_residuals(skips, down_block_additional_residuals)
        x = add_residual("mid_block_additional_residual", x, mid_block_additional_residual)
        for block in self.up_blocks:
            x = block(x, skips, emb, context, mask)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def numbered_attention(self) -> list[str]:
        """All attention, in the order in which IP-Adapter's files number it: down, up, middle."""
        parts = ("down_blocks", self.down_blocks), ("up_blocks", self.up_blocks), ("mid_block", self.mid_block)
        inside = [item for name, part in parts if part is not None for item in part.named_modules(prefix=name)]
        blocks = [path for path, module in inside if isinstance(module, BasicTransformerBlock)]
        return [f"{path}.{name}" for path in blocks for name in ("attn1", "attn2")]

    def perturbable_layers(self) -> PerturbableLayers:
        """All transformer blocks. By default those of the middle are perturbed (Ahn et al. 2024), or the last down."""
        inside = [*self.down_blocks.named_modules(prefix="down_blocks")]
        if self.mid_block is not None:
            inside += self.mid_block.named_modules(prefix="mid_block")
        inside += self.up_blocks.named_modules(prefix="up_blocks")
        blocks = {path: m for path, m in inside if isinstance(m, BasicTransformerBlock)}
        middle = [path for path in blocks if path.startswith("mid_block.")]
        deepest = [path for path in blocks if path.startswith("down_blocks.")][-1:]
        with_self_attention = [path for path, block in blocks.items() if not block.only_cross_attention]
        levels = [f"up_blocks.{i}" for i in range(len(self.up_blocks))]
        default = middle or deepest or list(blocks)[:1]
        return PerturbableLayers(list(blocks), default, with_self_attention, up_levels=levels)


def _add_residuals(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    if len(skips) != len(residuals):
        raise UnfitValue(
            f"down_block_additional_residuals needs {len(skips)} tensors, got {len(residuals)}: the control net was "
            "made for another U-Net."
        )
    pairs = zip(skips, residuals, strict=True)
    return [add_residual("down_block_additional_residuals", skip, residual) for skip, residual in pairs]
