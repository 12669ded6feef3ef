"""The transformer of PixArt (Chen et al. 2023) and PixArt-Sigma (Chen et al. 2024): one modulation for all blocks."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttendsToPrompt, Attention, FeedForward, KeysValues, Prompt, prompt_mask
from .base import Model
from .config import Chance, Epsilon, Layers, Rows, Scale, Width
from .constants import NO_CONSTANTS, Constants
from .deep_layers import LayeredDenoiser, TokenChange
from .embeddings import Sinusoid, TimestepEmbedding, check_input
from .initialization import init_normal
from .patch_embedding import PatchEmbed, sincos_positions, unpatchify
from .perturbable import PerturbableLayers, default_blocks
from .transformer_layers import GELULayer, TransformerConfig, add_gated, modulate

_LEGACY = "Transformer2DModel"  # the class that the first files name
_UNREAD_KEYS = ("double_self_attention", "num_vector_embeds", "only_cross_attention", "use_linear_projection")
"""Keys of those files that PixArt does not read."""


class PixArtTransformer2DConfig(TransformerConfig):
    """The published keys. With `out_channels` twice `in_channels`, the second half predicts a variance."""

    activation_fn: Literal["gelu-approximate"] = "gelu-approximate"
    attention_bias: bool = True
    attention_head_dim: Width = 72
    attention_type: Literal["default"] = "default"
    caption_channels: Width | None = None
    cross_attention_dim: Width = 1152
    dropout: Chance = 0.0
    in_channels: Width = 4
    interpolation_scale: Scale | None = None
    norm_elementwise_affine: Literal[False] = False
    norm_eps: Epsilon = 1e-6
    norm_num_groups: Width = 32
    norm_type: Literal["ada_norm_single"] = "ada_norm_single"
    num_attention_heads: Width = 16
    num_embeds_ada_norm: Rows | None = 1000
    num_layers: Layers = 28
    out_channels: Width | None = 8
    patch_size: Width = 2
    sample_size: Rows = 128
    upcast_attention: Literal[False] = False
    use_additional_conditions: bool | None = None

    @property
    def reads_sizes(self) -> bool:
        """Whether it reads the image's size and aspect. By default, models for 1024 pixels do, as published."""
        return self.sample_size == 128 if self.use_additional_conditions is None else self.use_additional_conditions

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the widths, and values that are not supported."""
        if self.dropout:
            yield "dropout", f"needs 0, got {self.dropout}: this model has no dropout."
        if self.norm_eps != 1e-6:
            yield "norm_eps", f"needs 1e-06, got {self.norm_eps}."
        if self.width % (multiple := 12 if self.reads_sizes else 4):
            yield (
                "attention_head_dim",
                f"times num_attention_heads needs to be a multiple of {multiple}, got {self.width}.",
            )
        if self.caption_channels is not None and self.cross_attention_dim != self.width:
            yield "cross_attention_dim", f"needs {self.width}, got {self.cross_attention_dim}: prompts are projected."


class PixArtBlock(AttendsToPrompt):
    """Self-attention, attention to the prompt, feed-forward; the first and last modulated (Chen et al. 2023, figure 4).

    All blocks share one modulation, to which each adds its own table (adaLN-single, section 2.3).
    """

    def __init__(self, config: PixArtTransformer2DConfig) -> None:
        super().__init__()
        width, heads, bias = config.width, config.num_attention_heads, config.attention_bias
        self.attn1 = Attention(width, heads=heads, context_channels=width, bias=bias)
        self.attn2 = Attention(width, heads=heads, context_channels=config.cross_attention_dim, bias=bias)
        self.ff = FeedForward(width, GELULayer)
        self.scale_shift_table = nn.Parameter(init_normal(torch.empty(6, width), width**-0.5))

    def forward(self, x: Tensor, context: Tensor | KeysValues, emb: Tensor, mask: Tensor | None) -> Tensor:
        """Map `b n c`; `emb` is `b 6 c`, and `mask` is added to the scores of the prompt.

        context: the prompt `b m k`, or its keys and values.
        """
        shift, scale, gate, shift_ff, scale_ff, gate_ff = (self.scale_shift_table + emb).chunk(6, dim=1)
        x = add_gated(x, gate, self.attn1(modulate(x, shift, scale)))
        x = x + self.attn2(x, context, mask)  # not normed before, as published
        return add_gated(x, gate_ff, self.ff(modulate(x, shift_ff, scale_ff)))


class PixArtStream(NamedTuple):
    """The values between two blocks. x: tokens of the image. table: the modulation of all blocks."""

    x: Tensor
    prompt: Prompt
    table: Tensor


class PixArtTransformer2DModel(Model[PixArtTransformer2DConfig], LayeredDenoiser[PixArtStream]):
    """Predicts noise from latents, a time and T5's tokens (Chen et al. 2023, section 2.3).

    Where `out_channels` is twice `in_channels` it predicts a variance too. Parameter names and config keys are
    published.
    """

    config_class = PixArtTransformer2DConfig
    takes_backend = True

    def build(self, config: PixArtTransformer2DConfig) -> None:
        """Make the layers."""
        width = config.width
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch_size, positions=None)
        self.transformer_blocks = nn.ModuleList(PixArtBlock(config) for _ in range(config.num_layers))
        self.scale_shift_table = nn.Parameter(init_normal(torch.empty(2, width), width**-0.5))
        self.proj_out = nn.Linear(width, config.patch_size**2 * (config.out_channels or config.in_channels))
        self.adaln_single = _TimeModulation(width, config.reads_sizes)
        caption = config.caption_channels
        self.caption_projection = None if caption is None else _CaptionProjection(caption, width)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a model from a `config.json`. Those of the first checkpoints name another class and have more keys."""
        if config.get("_class_name") == _LEGACY:
            config = {k: v for k, v in config.items() if k not in ("_class_name", *_UNREAD_KEYS)}
        return super().from_config(config)

    def positions(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Make position embeddings `1 n c` for latents of that size. They depend on no step: make them once a size."""
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
        *,
        constants: Constants = NO_CONSTANTS,
    ) -> Tensor:
        """Predict the noise for latents.

        Args:
            hidden_states: latents `b c h w`.
            encoder_hidden_states: the prompt, `b m k`.
            timestep: one time for each row, from 0 to 1000.
            encoder_attention_mask: `b m`, 0 for tokens that are ignored.
            sizes: height, width and their ratio, `b 3`, for models that read them and no others.
            positions: the result of `positions` for this size; None makes it.
            constants: what the layers make of the prompts and sizes, for calls with equal ones.

        Returns:
            `b out_channels h w`.

        Raises:
            UnfitValue: sizes that are missing, or that the model does not read.
            UnfitValue: latents whose sides are no multiples of `patch_size`.
        """
        patch = self.config.patch_size
        rows, columns = hidden_states.shape[2:]
        x = self.pos_embed(hidden_states)
        x = (x + (self.positions(rows, columns, x.device) if positions is None else positions)).to(x.dtype)
        emb, table = self.adaln_single(timestep, sizes, x.dtype, constants)
        context = encoder_hidden_states
        if self.caption_projection is not None:
            context = constants.output(self.caption_projection, context)
        mask = constants.named("mask", lambda: prompt_mask(encoder_attention_mask, x.dtype))
        x = self.run_layers(PixArtStream(x, Prompt(context, mask, constants), table)).x
        shift, scale = (self.scale_shift_table + emb[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulate(x, shift, scale))
        return unpatchify(x, (rows // patch, columns // patch), patch)

    def before_deep(self, stream: PixArtStream, depth: int) -> PixArtStream:
        """Run the first blocks."""
        return self._run(stream, 0, depth)

    def run_deep(self, stream: PixArtStream, depth: int) -> PixArtStream:
        """Run the other blocks."""
        return self._run(stream, depth, len(self.transformer_blocks))

    def _run(self, s: PixArtStream, first: int, stop: int) -> PixArtStream:
        """Run the blocks from `first` to before `stop`."""
        x = s.x
        for block in [*self.transformer_blocks][first:stop]:
            x = block(x, s.prompt.read_by(block), s.table, s.prompt.mask)
        return s._replace(x=x)

    def map_tokens(self, stream: PixArtStream, picture: TokenChange, prompt: TokenChange) -> PixArtStream:
        """Return the stream with changed tokens of the picture. All of them read those of the prompt."""
        return stream._replace(x=picture(stream.x))

    def modulated(self, stream: PixArtStream) -> Tensor:
        """Return the modulated input of the first block."""
        first = cast("PixArtBlock", self.transformer_blocks[0])
        shift, scale = (first.scale_shift_table[:2] + stream.table[:, :2]).chunk(2, dim=1)
        return modulate(stream.x, shift, scale)

    def deep_blocks(self, depth: int) -> list[str]:
        """Return the paths of all blocks but the first `depth`."""
        return [*self.perturbable_layers().blocks][depth:]

    def perturbable_layers(self) -> PerturbableLayers:
        """All blocks. By default the seventh to ninth are perturbed, or the middle one of fewer."""
        blocks = [f"transformer_blocks.{i}" for i in range(len(self.transformer_blocks))]
        patch, last = self.config.patch_size, len(blocks) - 1
        return PerturbableLayers(blocks, default_blocks(blocks), blocks, patch=patch, shallow=last, modulated=True)


class _TimeModulation(nn.Module):
    """Embeds times, and sizes where they are read, and makes the modulation that all blocks share."""

    def __init__(self, width: int, sizes: bool) -> None:
        super().__init__()
        self.emb = _TimeSizes(width, sizes)
        self.linear = nn.Linear(width, 6 * width)

    def forward(
        self, times: Tensor, sizes: Tensor | None, dtype: torch.dtype, constants: Constants
    ) -> tuple[Tensor, Tensor]:
        """Return the embedding `b c` and the modulation `b 6 c`."""
        emb = self.emb(times, sizes, dtype, constants)
        return emb, self.linear(F.silu(emb)).unflatten(1, (6, -1))


class _TimeSizes(nn.Module):
    def __init__(self, width: int, sizes: bool) -> None:
        super().__init__()
        self.waves = Sinusoid(256, flip=True, shift=0)
        self.timestep_embedder = TimestepEmbedding(256, width)
        self.resolution_embedder = TimestepEmbedding(256, width // 3) if sizes else None
        self.aspect_ratio_embedder = TimestepEmbedding(256, width // 3) if sizes else None

    def forward(self, times: Tensor, sizes: Tensor | None, dtype: torch.dtype, constants: Constants) -> Tensor:
        emb = self.timestep_embedder(self.waves(times, constants).to(dtype))
        check_input("sizes", sizes, self.resolution_embedder, "use_additional_conditions")
        if sizes is None or self.resolution_embedder is None or self.aspect_ratio_embedder is None:
            return emb
        resolution, aspect_ratio = self.resolution_embedder, self.aspect_ratio_embedder

        def embedded() -> Tensor:
            waves = self.waves(sizes.flatten()).to(dtype).unflatten(0, (-1, 3))  # b 3 256
            return torch.cat([resolution(waves[:, :2]).flatten(1), aspect_ratio(waves[:, 2])], dim=1)

        return emb + constants.of(resolution, embedded)


class _CaptionProjection(nn.Module):
    """Projects T5's tokens to the transformer's width, with the tanh form of GELU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))
