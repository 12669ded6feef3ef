"""Control nets for Flux: the first blocks of the transformer again, told of a control image."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .flux import FluxConfig, FluxTrunk


class FluxControlNetConfig(FluxConfig):
    """Keys and defaults as published."""

    num_mode: int | None = None
    conditioning_embedding_channels: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        hint = self.conditioning_embedding_channels
        if hint is not None and hint * self.patch_size**2 != self.in_channels:
            yield (
                "conditioning_embedding_channels",
                f"gives {hint} x {self.patch_size} x {self.patch_size} channels a token, not in_channels "
                f"{self.in_channels}.",
            )


class FluxResiduals(NamedTuple):
    """What a control net adds behind the blocks of a Flux transformer, `b n c` each; () where it has no such blocks.

    repeats: whether the first go round in turn, rather than each serving several blocks in a row.
    """

    blocks: tuple[Tensor, ...]
    single: tuple[Tensor, ...]
    repeats: bool = False


class FluxControlNetModel(FluxTrunk[FluxControlNetConfig]):
    """Reads the same as the transformer, and a control image (Zhang et al. 2023, with transformer blocks).

    A union of several kinds of control has `num_mode` of them. XLabs' nets read pixels through convolutions of their
    own (`conditioning_embedding_channels`); all others read latents.
    """

    config_class = FluxControlNetConfig

    def build(self, config: FluxControlNetConfig) -> None:
        super().build(config)
        width = config.width
        self.controlnet_blocks = nn.ModuleList(_zero(nn.Linear(width, width)) for _ in self.transformer_blocks)
        self.controlnet_single_blocks = nn.ModuleList(
            _zero(nn.Linear(width, width)) for _ in self.single_transformer_blocks
        )
        # An nn.Embedding made in the usual way draws its values, which on the meta device imports torch._dynamo.
        self.controlnet_mode_embedder = None
        if config.num_mode is not None:
            self.controlnet_mode_embedder = nn.Embedding.from_pretrained(
                torch.zeros(config.num_mode, width), freeze=False
            )
        hint, entry = config.conditioning_embedding_channels, nn.Linear(config.in_channels, width)
        self.input_hint_block = None if hint is None else _HintBlock(hint)
        self.controlnet_x_embedder = entry if hint is not None else _zero(entry)

    @property
    def reads_pixels(self) -> bool:
        """Whether the control image comes as pixels `b 3 h w` from 0 to 1, not as packed latents."""
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
    ) -> FluxResiduals:
        """What to add to the transformer. Arguments as there.

        Args:
            controlnet_cond: the control image, as packed latents `b n c`, or as pixels where `reads_pixels`.
            controlnet_mode: which kind of control, `b 1` integers, for unions and no others.
            conditioning_scale: what the answer is multiplied with.
            image_rotary_emb: what `rotary` makes of the ids, in their stead; in a union the mode is one more token,
                before the prompt's and at the place of its first.

        Raises:
            TypeError: a mode that is missing, or has no place.
        """
        control = controlnet_cond
        if self.input_hint_block is not None:
            control = _packed(self.input_hint_block(control), self.config.patch_size)
        x = self.x_embedder(hidden_states) + self.controlnet_x_embedder(control)
        emb = self.embed(timestep, pooled_projections, guidance, x.dtype)
        context = self.context_embedder(encoder_hidden_states)
        if (self.controlnet_mode_embedder is None) != (controlnet_mode is None):
            raise TypeError(
                f"controlnet_mode is missing: this control net is a union of {self.config.num_mode} kinds."
                if controlnet_mode is None
                else "controlnet_mode has no place here: this control net is of one kind."
            )
        if self.controlnet_mode_embedder is not None:
            context = torch.cat([self.controlnet_mode_embedder(controlnet_mode), context], dim=1)
            txt_ids = None if txt_ids is None else torch.cat([txt_ids[:1], txt_ids])
        rotary = self.placed(txt_ids, img_ids, image_rotary_emb)
        found: list[Tensor] = []
        for block in self.transformer_blocks:
            x, context = block(x, context, emb, rotary)
            found.append(x)
        start = context.shape[1]
        x = torch.cat([context, x], dim=1)
        found_single: list[Tensor] = []
        for block in self.single_transformer_blocks:
            x = block(x, emb, rotary, start)
            found_single.append(x[:, start:])

        def given(layers: nn.ModuleList, seen: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(layer(x) * conditioning_scale for layer, x in zip(layers, seen, strict=True))

        blocks, single = given(self.controlnet_blocks, found), given(self.controlnet_single_blocks, found_single)
        return FluxResiduals(blocks, single, self.reads_pixels)


class _HintBlock(nn.Module):
    """Pixels to an eighth of their size, in four convolutions and three that halve (Zhang et al. 2023, section 3.2)."""

    def __init__(self, channels: int, inner: int = 16) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, inner, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(inner, inner, 3, padding=1, stride=1 + i % 2) for i in range(6))
        self.conv_out = _zero(nn.Conv2d(inner, channels, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = nn.functional.silu(self.conv_in(pixels))
        for conv in self.blocks:
            x = nn.functional.silu(conv(x))
        return self.conv_out(x)


def _packed(x: Tensor, patch: int) -> Tensor:
    """`b c h w` to `b n (c patch patch)`."""
    return nn.functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def _zero(layer: nn.Module) -> nn.Module:
    """A layer that at first adds nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
