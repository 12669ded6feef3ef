"""The U-Net of Stable Diffusion 1, 2 and XL."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .activations import activation
from .attention import BasicTransformerBlock, Prompt
from .constants import NO_CONSTANTS, Constants
from .deep_layers import LayeredDenoiser
from .perturbable import PerturbableLayers
from .unet_blocks import DownBlock, UpBlock, add_residual
from .unet_config import UNet2DConditionConfig, up_levels
from .unet_encoder import UNetEncoder, resnet_style, transformer_style


class UNetStream(NamedTuple):
    """The values between two layers. x: features; skips: of the layers before; the rest are inputs of many layers."""

    x: Tensor
    skips: list[Tensor]
    emb: Tensor
    prompt: Prompt
    features: Sequence[Tensor] | None
    residuals: Sequence[Tensor] | None
    middle: Tensor | None


class UNet2DConditionModel(UNetEncoder[UNet2DConditionConfig], LayeredDenoiser[UNetStream]):
    """Predicts noise (or velocity, or the sample) from noisy latents, a time and a prompt.

    Ronneberger et al. 2015, with the residual blocks of Ho et al. 2020 (appendix B) and the transformers of Rombach et
    al. 2022 (section 3.3); sizes and pooled prompt as in Podell et al. 2023 (section 2.2). Parameter names and config
    keys are published. Config keys that differ between checkpoints: `in_channels` is 9 for inpainting,
    `cross_attention_dim` is the prompt's width, `addition_embed_type` is "text_time" for SDXL, and
    `attention_head_dim` is the number of heads, in spite of its name.
    """

    config_class = UNet2DConditionConfig
    deep_adds = False

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
        constants: Constants = NO_CONSTANTS,
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
            constants: what the layers make of the prompt and of `added_cond_kwargs`, for calls with equal ones.

        Returns:
            `b c h w`, with the config's out_channels.

        Raises:
            UnfitValue: an input that is missing, that the model does not read, or that does not fit.
        """
        if self.center_input_sample:
            sample = 2 * sample - 1
        emb = self.embed(sample, timestep, class_labels, timestep_cond, added_cond_kwargs, constants=constants)
        prompt = self.project_prompt(encoder_hidden_states, encoder_attention_mask, constants)
        x = self.conv_in(sample)
        stream = UNetStream(
            x,
            [x],
            emb,
            prompt,
            down_intrablock_additional_residuals,
            down_block_additional_residuals,
            mid_block_additional_residual,
        )
        return self.conv_out(self.conv_act(self.conv_norm_out(self.run_layers(stream).x)))

    def before_deep(self, stream: UNetStream, depth: int) -> UNetStream:
        """Run the first `depth` residual blocks of the first level, with their transformers."""
        if not depth:
            return stream
        s = stream
        return s._replace(x=self.down_blocks[0](s.x, s.skips, s.emb, s.prompt, stop=depth))

    def run_deep(self, stream: UNetStream, depth: int) -> UNetStream:
        """Run all layers up to those that read the skips of the shallow ones (Ma et al. 2023, section 3.2)."""
        s = stream
        x, skips = self.encode(s.x, s.emb, s.prompt, s.features, s.skips)
        if s.residuals is not None:
            skips = _add_residuals(skips, s.residuals)
        x = add_residual("mid_block_additional_residual", x, s.middle)
        *levels, last = self.up_blocks
        for block in levels:
            x = block(x, skips, s.emb, s.prompt)
        x = last(x, skips, s.emb, s.prompt, stop=self._last_layers(depth))
        return s._replace(x=x, skips=skips, residuals=None)

    def after_deep(self, stream: UNetStream, depth: int) -> UNetStream:
        """Run the last `depth` + 1 residual blocks of the last level, with their transformers."""
        s, skips = stream, stream.skips
        if s.residuals is not None:  # the deep layers did not run
            skips = _add_residuals(skips, s.residuals[: len(skips)])
        x = self.up_blocks[-1](s.x, skips, s.emb, s.prompt, start=self._last_layers(depth))
        return s._replace(x=x)

    def _last_layers(self, depth: int) -> int:
        """The number of residual blocks of the last level that are deep."""
        return len(cast("UpBlock", self.up_blocks[-1]).resnets) - 1 - depth

    def deep_blocks(self, depth: int) -> list[str]:
        """Return the paths of the transformer blocks between the shallow layers and the last ones."""
        last, stop = f"up_blocks.{len(self.up_blocks) - 1}.attentions.", self._last_layers(depth)
        shallow = tuple(f"down_blocks.0.attentions.{i}." for i in range(depth))
        shallow += tuple(f"{last}{i}." for i in range(stop, stop + depth + 1))
        return [path for path in self.perturbable_layers().blocks if not path.startswith(shallow)]

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
        shallow = len(cast("DownBlock", self.down_blocks[0]).resnets)
        return PerturbableLayers(list(blocks), default, with_self_attention, up_levels=levels, shallow=shallow)


def _add_residuals(skips: Sequence[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    if len(skips) != len(residuals):
        raise UnfitValue(
            f"down_block_additional_residuals needs {len(skips)} tensors, got {len(residuals)}: the control net was "
            "made for another U-Net."
        )
    pairs = zip(skips, residuals, strict=True)
    return [add_residual("down_block_additional_residuals", skip, residual) for skip, residual in pairs]
