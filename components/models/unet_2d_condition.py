"""The U-Net of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .activations import activation
from .attention import BasicTransformerBlock
from .taps import PerturbableLayers
from .unet_blocks import UpBlock, plus
from .unet_config import UNet2DConditionConfig, up_levels
from .unet_encoder import UNetEncoder, resnet_style, transformer_style


class UNet2DConditionModel(UNetEncoder[UNet2DConditionConfig]):
    """Predicts noise (or velocity, or the sample) from noisy latents, a time and a prompt.

    Ronneberger et al. 2015 with the residual blocks of Ho et al. 2020 (appendix B) and the transformers of Rombach et
    al. 2022 (section 3.3); sizes and pooled prompt as in Podell et al. 2023. Parameter names and config keys are the
    published ones.
    """

    config_class = UNet2DConditionConfig

    def build(self, config: UNet2DConditionConfig) -> None:
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
            down_intrablock_additional_residuals: added inside the levels going down, one for each, and maybe one after
                the middle (T2I-Adapter, Mou et al. 2023). One level or size too many or few is refused.

        Returns:
            `b c h w`, with the config's out_channels.

        Raises:
            TypeError: an input that this model needs and did not get, got and has no place for, or that does not fit.
        """
        if self.center_input_sample:
            sample = 2 * sample - 1
        emb = self.embed(sample, timestep, class_labels, timestep_cond, added_cond_kwargs)
        context, mask = self.project_prompt(encoder_hidden_states, encoder_attention_mask)
        x, skips = self.descend(self.conv_in(sample), emb, context, mask, down_intrablock_additional_residuals)
        if down_block_additional_residuals is not None:
            skips = _added(skips, down_block_additional_residuals)
        x = plus("mid_block_additional_residual", x, mid_block_additional_residual)
        for block in self.up_blocks:
            x = block(x, skips, emb, context, mask)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))

    def perturbable_layers(self) -> PerturbableLayers:
        """Its transformer blocks; usually the middle's are perturbed (Ahn et al. 2024), else the deepest."""
        inside = [*self.down_blocks.named_modules(prefix="down_blocks")]
        if self.mid_block is not None:
            inside += self.mid_block.named_modules(prefix="mid_block")
        inside += self.up_blocks.named_modules(prefix="up_blocks")
        found = {path: m for path, m in inside if isinstance(m, BasicTransformerBlock)}
        middle = [path for path in found if path.startswith("mid_block.")]
        deepest = [path for path in found if path.startswith("down_blocks.")][-1:]
        attending = [path for path, block in found.items() if not block.only_cross_attention]
        return PerturbableLayers(list(found), middle or deepest or list(found)[:1], attending)


def _added(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    if len(skips) != len(residuals):
        raise TypeError(
            f"down_block_additional_residuals has {len(residuals)} tensors, but this U-Net takes {len(skips)}: "
            "the control net was made for another one."
        )
    pairs = zip(skips, residuals, strict=True)
    return [plus("down_block_additional_residuals", skip, residual) for skip, residual in pairs]
