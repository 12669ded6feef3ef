"""PixArt's transformer (Chen et al. 2023; Sigma, Chen et al. 2024): one modulation for all blocks, T5 in attention."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention
from .base import Model
from .config import Config
from .embeddings import Sinusoid, TimestepEmbedding
from .patch_embedding import PatchEmbed, sincos_positions, unpatchify
from .taps import PerturbableLayers, default_blocks
from .transformer_layers import GELUFeedForward, gated, modulated

_LEGACY = "Transformer2DModel"  # the class that the first files name, and keys of it that say nothing here
_LEGACY_KEYS = ("double_self_attention", "num_vector_embeds", "only_cross_attention", "use_linear_projection")


class PixArtTransformer2DConfig(Config):
    """Keys and defaults as published."""

    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    attention_bias: bool = True
    attention_head_dim: int = 72
    attention_type: Literal["default"] = "default"
    caption_channels: int | None = None
    cross_attention_dim: int = 1152
    dropout: float = 0.0
    in_channels: int = 4
    interpolation_scale: float | None = None
    norm_elementwise_affine: Literal[False] = False
    norm_eps: float = 1e-6
    norm_num_groups: int = 32
    norm_type: Literal["ada_norm_single"] = "ada_norm_single"
    num_attention_heads: int = 16
    num_embeds_ada_norm: int | None = 1000
    num_layers: int = 28
    out_channels: int | None = 8
    patch_size: int = 2
    sample_size: int = 128
    upcast_attention: Literal[False] = False
    use_additional_conditions: bool | None = None

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def reads_sizes(self) -> bool:
        """Whether it is told the picture's size and aspect; unsaid, those for 1024 pixels are, as published."""
        return self.sample_size == 128 if self.use_additional_conditions is None else self.use_additional_conditions

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.dropout:
            yield "dropout", f"is {self.dropout}, but this model has none. Set it to 0."
        if self.norm_eps != 1e-6:
            yield "norm_eps", f"is {self.norm_eps}, but what is supported is 1e-06."
        if self.width % 4 or (self.reads_sizes and self.width % 3):
            yield "attention_head_dim", f"gives {self.width} channels; wanted: 4 n, and 3 n where it reads sizes."
        if self.caption_channels is not None and self.cross_attention_dim != self.width:
            yield "cross_attention_dim", f"is {self.cross_attention_dim}, but prompts are projected to {self.width}."


class PixArtBlock(nn.Module):
    """Self-attention, attention to the prompt, feed-forward; the first and last modulated (2023, figure 4).

    What modulates is the same for all blocks but for a table that each adds (adaLN-single, section 2.3).
    """

    def __init__(self, config: PixArtTransformer2DConfig) -> None:
        super().__init__()
        width, heads, bias = config.width, config.num_attention_heads, config.attention_bias
        self.attn1 = Attention(width, heads=heads, context_channels=width, bias=bias)
        self.attn2 = Attention(width, heads=heads, context_channels=config.cross_attention_dim, bias=bias)
        self.ff = GELUFeedForward(width)
        self.scale_shift_table = nn.Parameter(_spread(torch.empty(6, width)))

    def forward(self, x: Tensor, context: Tensor, emb: Tensor, mask: Tensor | None) -> Tensor:
        """Maps `b n c`; `context` is `b m k`, `emb` `b 6 c`, `mask` is added to the scores of the prompt."""
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (self.scale_shift_table + emb).chunk(6, dim=1)
        x = gated(x, gate, self.attn1(modulated(x, shift, scale)))
        x = x + self.attn2(x, context, mask)  # not normed before, as published
        return gated(x, gate_ff, self.ff(modulated(x, shift_ff, scale_ff)))


class PixArtTransformer2DModel(Model[PixArtTransformer2DConfig]):
    """Predicts noise, and where out_channels is twice in_channels a variance, from latents, a time and T5's tokens."""

    config_class = PixArtTransformer2DConfig

    def build(self, config: PixArtTransformer2DConfig) -> None:
        width = config.width
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch_size, positions=None)
        self.transformer_blocks = nn.ModuleList(PixArtBlock(config) for _ in range(config.num_layers))
        self.scale_shift_table = nn.Parameter(_spread(torch.empty(2, width)))
        self.proj_out = nn.Linear(width, config.patch_size**2 * (config.out_channels or config.in_channels))
        self.adaln_single = _TimeModulation(width, config.reads_sizes)
        words = config.caption_channels
        self.caption_projection = None if words is None else _CaptionProjection(words, width)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """See `Model`. Files of the first checkpoints name another class, and a few keys more."""
        if config.get("_class_name") == _LEGACY:
            config = {k: v for k, v in config.items() if k not in ("_class_name", *_LEGACY_KEYS)}
        return super().from_config(config)

    def positions(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Position embeddings `1 n c` for latents of that size. They depend on no step: make them once a size."""
        patch, side = self.config.patch_size, self.config.sample_size
        scale = self.config.interpolation_scale or max(side // 64, 1)
        size = height // patch, width // patch
        return sincos_positions(self.config.width, size, side // patch, scale=scale, device=device)[None]

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        encoder_attention_mask: Tensor | None = None,
        sizes: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """The prediction for latents.

        Args:
            hidden_states: latents `b c h w`.
            encoder_hidden_states: the prompt, `b m k`.
            timestep: one for each row, from 0 to 1000.
            encoder_attention_mask: `b m`, 0 where a token is not to be seen.
            sizes: height, width and their ratio, `b 3`, for models that read them and no others.
            positions: what `positions` gives for this size; made anew where it is not given.

        Returns:
            `b out_channels h w`.

        Raises:
            TypeError: sizes that are missing, or have no place.
        """
        patch = self.config.patch_size
        rows, columns = hidden_states.shape[2:]
        x = self.pos_embed(hidden_states)
        x = (x + (self.positions(rows, columns, x.device) if positions is None else positions)).to(x.dtype)
        emb, table = self.adaln_single(timestep, sizes, x.dtype)
        words = encoder_hidden_states
        if self.caption_projection is not None:
            words = self.caption_projection(words)
        mask = encoder_attention_mask
        if mask is not None:
            mask = ((1 - mask.to(x.dtype)) * -10000.0)[:, None, None]  # b 1 1 m
        for block in self.transformer_blocks:
            x = block(x, words, table, mask)
        shift, scale = (self.scale_shift_table + emb[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulated(x, shift, scale))
        return unpatchify(x, (rows // patch, columns // patch), patch)

    def perturbable_layers(self) -> PerturbableLayers:
        """All blocks; their self-attention is `attn1`."""
        blocks = [f"transformer_blocks.{i}" for i in range(len(self.transformer_blocks))]
        return PerturbableLayers(blocks, default_blocks(blocks), blocks, patch=self.config.patch_size)


class _TimeModulation(nn.Module):
    """Time, and sizes where they are read, as one vector, and as what modulates all blocks."""

    def __init__(self, width: int, sizes: bool) -> None:
        super().__init__()
        self.emb = _TimeSizes(width, sizes)
        self.linear = nn.Linear(width, 6 * width)

    def forward(self, times: Tensor, sizes: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`b c` and `b 6 c`."""
        emb = self.emb(times, sizes, dtype)
        return emb, self.linear(F.silu(emb)).unflatten(1, (6, -1))


class _TimeSizes(nn.Module):
    def __init__(self, width: int, sizes: bool) -> None:
        super().__init__()
        self.waves = Sinusoid(256, flip=True, shift=0)
        self.timestep_embedder = TimestepEmbedding(256, width)
        self.resolution_embedder = TimestepEmbedding(256, width // 3) if sizes else None
        self.aspect_ratio_embedder = TimestepEmbedding(256, width // 3) if sizes else None

    def forward(self, times: Tensor, sizes: Tensor | None, dtype: torch.dtype) -> Tensor:
        emb = self.timestep_embedder(self.waves(times).to(dtype))
        if (sizes is None) != (self.resolution_embedder is None):
            raise TypeError(
                "sizes are missing: this model reads the picture's size (use_additional_conditions)."
                if sizes is None
                else "sizes have no place here: this model does not read them (use_additional_conditions is false)."
            )
        if sizes is None or self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return emb
        waves = self.waves(sizes.flatten()).to(dtype).unflatten(0, (-1, 3))  # b 3 256
        sides = self.resolution_embedder(waves[:, :2])
        return emb + torch.cat([sides.flatten(1), self.aspect_ratio_embedder(waves[:, 2])], dim=1)


class _CaptionProjection(nn.Module):
    """T5's tokens in the transformer's width; GELU by its tanh form."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


def _spread(table: Tensor) -> Tensor:
    """Fresh values; none where a file is about to bring them."""
    return table if table.is_meta else nn.init.normal_(table, std=table.shape[1] ** -0.5)
