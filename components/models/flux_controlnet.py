"""Control nets of Flux: copies of the first blocks of the transformer that also read a control image."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .config import Rows, Width
from .constants import NO_CONSTANTS, Constants
from .embeddings import check_input
from .flux import FluxConfig, FluxTrunk
from .initialization import embedding, zero_init


class FluxControlNetConfig(FluxConfig):
    """The published keys. `num_mode` is the number of kinds of a union; None is a control net of one kind."""

    num_mode: Rows | None = None
    conditioning_embedding_channels: Width | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the rotary axes and the image's channels."""
        yield from super().problems()
        hint = self.conditioning_embedding_channels
        if hint is not None and hint * self.patch_size**2 != self.in_channels:
            yield (
                "conditioning_embedding_channels",
                f"times {self.patch_size} x {self.patch_size} needs to be in_channels {self.in_channels}, got "
                f"{hint * self.patch_size**2}.",
            )


class FluxResiduals(NamedTuple):
    """The residuals that a control net adds after the blocks of a Flux transformer, `b n c` each.

    blocks: for those with two streams, () without any. single: for those with one. repeats: whether the first go round
    over the blocks, instead of each serving several neighbouring blocks.
    """

    blocks: tuple[Tensor, ...]
    single: tuple[Tensor, ...]
    repeats: bool = False


class FluxControlNetModel(FluxTrunk[FluxControlNetConfig]):
    """Makes residuals for the transformer from its inputs and a control image (Zhang et al. 2023, section 3.1).

    With `num_mode` it is a union of so many kinds of control images. With `conditioning_embedding_channels` it reads
    pixels through its own convolutions, as XLabs' nets do; all others read packed latents. Parameter names and config
    keys are published.
    """

    config_class = FluxControlNetConfig

    def build(self, config: FluxControlNetConfig) -> None:
        """Make the copy of the transformer's blocks, and layers of zeros after them."""
        super().build(config)
        width = config.width
        self.controlnet_blocks = nn.ModuleList(zero_init(nn.Linear(width, width)) for _ in self.transformer_blocks)
        self.controlnet_single_blocks = nn.ModuleList(
            zero_init(nn.Linear(width, width)) for _ in self.single_transformer_blocks
        )
        modes = config.num_mode
        self.controlnet_mode_embedder = None if modes is None else embedding(modes, width, std=None)
        hint, entry = config.conditioning_embedding_channels, nn.Linear(config.in_channels, width)
        self.input_hint_block = None if hint is None else _HintBlock(hint)
        self.controlnet_x_embedder = entry if hint is not None else zero_init(entry)

    @property
    def reads_pixels(self) -> bool:
        """Whether the control image is pixels `b 3 h w` from 0 to 1, and not packed latents."""
        return self.input_hint_block is not None

    def forward(
        self,
        hidden_states: Tensor,
        controlnet_cond: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor | None = None,
        txt_ids: Tensor | None = None,
        guidance: Tensor | None = None,
        *,
        controlnet_mode: Tensor | None = None,
        conditioning_scale: float = 1.0,
        image_rotary_emb: Tensor | None = None,
        constants: Constants = NO_CONSTANTS,
    ) -> FluxResiduals:
        """Compute residuals for the transformer.

        Args:
            hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids, guidance,
                constants: as `FluxTransformer2DModel` takes them.
            controlnet_cond: the control image: packed latents `b n c`, or pixels where `reads_pixels`.
            controlnet_mode: the kind of control image, `b 1` integers, for unions and no others.
            conditioning_scale: a factor of all residuals.
            image_rotary_emb: the result of `rotary`, in place of the ids. In a union the mode is one more token before
                the prompt's, at the position of the first.

        Raises:
            UnfitValue: a mode that is missing, or that the model does not read; see also the transformer.
        """
        control = controlnet_cond
        if self.input_hint_block is not None:
            control = _packed(self.input_hint_block(control), self.config.patch_size)
        x = self.x_embedder(hidden_states) + self.controlnet_x_embedder(control)
        emb = self.embed(timestep, pooled_projections, guidance, x.dtype, constants)
        context = constants.output(self.context_embedder, encoder_hidden_states)
        check_input("controlnet_mode", controlnet_mode, self.controlnet_mode_embedder, "num_mode")
        if self.controlnet_mode_embedder is not None:
            context = torch.cat([self.controlnet_mode_embedder(controlnet_mode), context], dim=1)
            txt_ids = None if txt_ids is None else torch.cat([txt_ids[:1], txt_ids])
        rotary = self.rotary_or(image_rotary_emb, txt_ids, img_ids)
        states: list[Tensor] = []
        for block in self.transformer_blocks:
            x, context = block(x, context, emb, rotary)
            states.append(x)
        start = context.shape[1]
        x = torch.cat([context, x], dim=1)
        single_states: list[Tensor] = []
        for block in self.single_transformer_blocks:
            x = block(x, emb, rotary, start)
            single_states.append(x[:, start:])

        def residuals(layers: nn.ModuleList, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(layer(x) * conditioning_scale for layer, x in zip(layers, states, strict=True))

        return FluxResiduals(
            residuals(self.controlnet_blocks, states),
            residuals(self.controlnet_single_blocks, single_states),
            self.reads_pixels,
        )


class _HintBlock(nn.Module):
    """Maps pixels to an eighth of their size: convolutions, three of which have stride 2 (Zhang et al. 2023, eq. 4)."""

    def __init__(self, channels: int, inner: int = 16) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, inner, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=1, stride=1 + i % 2) for i in range(6))
        self.conv_out = zero_init(nn.Conv2d(inner, channels, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = nn.functional.silu(self.conv_in(pixels))
        for conv in self.blocks:
            x = nn.functional.silu(conv(x))
        return self.conv_out(x)


def _packed(x: Tensor, patch: int) -> Tensor:
    """Turn `b c h w` into `b n (c patch patch)`."""
    return nn.functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)
