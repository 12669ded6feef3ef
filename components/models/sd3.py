"""The transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024): two streams of tokens with joint attention."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import FeedForward
from .base import Model
from .config import Layers, Rows, Width
from .constants import NO_CONSTANTS, Constants
from .deep_layers import LayeredDenoiser, TokenChange
from .embeddings import TimeTextEmbedding
from .patch_embedding import PatchEmbed, unpatchify
from .perturbable import PerturbableLayers, default_blocks
from .transformer_layers import (
    AdaptiveNorm,
    AdaptiveNormOut,
    GELULayer,
    JointAttention,
    SelfAttention,
    TransformerConfig,
    TwoStreams,
    add_gated,
    modulate,
)


class SD3Config(TransformerConfig):
    """The keys that the transformer and its control nets share, and their published defaults."""

    sample_size: Rows = 128
    patch_size: Width = 2
    in_channels: Width = 16
    num_layers: Layers = 18
    attention_head_dim: Width = 64
    num_attention_heads: Width = 18
    caption_projection_dim: Width = 1152
    pooled_projection_dim: Width = 2048
    out_channels: Width | None = 16
    dual_attention_layers: tuple[Layers, ...] = ()
    qk_norm: Literal["rms_norm"] | None = None

    @property
    def eps(self) -> float | None:
        """The epsilon of the norms of queries and keys; None is no norms."""
        return None if self.qk_norm is None else 1e-6

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the width."""
        if self.width % 4:
            yield "attention_head_dim", f"times num_attention_heads needs to be a multiple of 4, got {self.width}."


def stream_width_problems(config: SD3Config) -> Iterator[tuple[str, str]]:
    """Yield what is wrong if the streams of image and prompt differ in width."""
    if config.caption_projection_dim != config.width:
        yield (
            "caption_projection_dim",
            f"needs {config.width} (num_attention_heads x attention_head_dim), got {config.caption_projection_dim}.",
        )


class SD3Transformer2DConfig(SD3Config):
    """The published keys. `pos_embed_max_size` is the side of the largest image, in tokens."""

    joint_attention_dim: Width = 4096
    pos_embed_max_size: Rows = 96

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the widths."""
        yield from super().problems()
        yield from stream_width_problems(self)


class JointTransformerBlock(nn.Module, TwoStreams):
    """Two streams with their own weights: image and prompt, with joint attention (Esser et al. 2024, figure 2b).

    dual: whether the image also has self-attention, as in SD 3.5 medium. last: whether the prompt's stream ends.
    """

    def __init__(self, width: int, heads: int, eps: float | None, *, dual: bool, last: bool = False) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, 9 if dual else 6)
        self.norm1_context = AdaptiveNormOut(width) if last else AdaptiveNorm(width, 6)
        self.attn = JointAttention(width, heads, eps=eps, context_out=not last)
        self.attn2 = SelfAttention(width, heads, eps=eps) if dual else None
        self.ff = FeedForward(width, GELULayer)
        self.ff_context = None if last else FeedForward(width, GELULayer)

    def forward(self, x: Tensor, context: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Map the image's tokens `b n c` and the prompt's `b m c`; `emb` `b c` is already activated."""
        normed, (gate, shift_ff, scale_ff, gate_ff, *of_dual) = self.norm1(x, emb)
        normed_context, parts = self._normed(context, emb)
        attended, context_attended = self.attn(normed, normed_context)
        before, x = x, add_gated(x, gate, attended)
        if self.attn2 is not None:
            shift, scale, gate = of_dual
            x = add_gated(x, gate, self.attn2(modulate(before, shift, scale)))
        x = add_gated(x, gate_ff, self.ff(modulate(x, shift_ff, scale_ff)))
        if self.ff_context is None:
            return x, context
        gate, shift_ff, scale_ff, gate_ff = parts
        context = add_gated(context, gate, context_attended)
        return x, add_gated(context, gate_ff, self.ff_context(modulate(context, shift_ff, scale_ff)))

    def _normed(self, context: Tensor, emb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        normed = self.norm1_context(context, emb)
        return (normed, ()) if self.ff_context is None else normed


C = TypeVar("C", bound=SD3Config)


class SD3Trunk(Model[C]):
    """Base of the transformer and its control nets: the embedding of times and pooled prompts."""

    takes_backend = True

    def build(self, config: C) -> None:
        """Make the embedding."""
        self.time_text_embed = TimeTextEmbedding(config.pooled_projection_dim, config.width)

    def embed(self, times: Tensor, pooled: Tensor, constants: Constants = NO_CONSTANTS) -> Tensor:
        """Embed times `b` from 0 to 1000 and the pooled prompt `b p` as one activated vector `b c`."""
        return F.silu(self.time_text_embed(times, pooled, constants=constants))


def patch_embedding(config: SD3Config, positions: int | None) -> PatchEmbed:
    """Make the layer that turns latents into tokens, with a map of positions of that side; None for no positions."""
    side = config.sample_size // config.patch_size
    return PatchEmbed(config.in_channels, config.width, config.patch_size, positions=positions, side=side)


class SD3Stream(NamedTuple):
    """The values between two blocks. x, context: tokens of image and prompt; added: residuals of control nets."""

    x: Tensor
    context: Tensor
    emb: Tensor
    added: Sequence[Tensor]


class SD3Transformer2DModel(SD3Trunk[SD3Transformer2DConfig], LayeredDenoiser[SD3Stream]):
    """Predicts velocity from latents, a time and a prompt (Esser et al. 2024, section 4).

    Parameter names and config keys are published. SD 3 has no norms of queries and keys (`qk_norm`); 3.5 has them, and
    3.5 medium has a second attention in its first blocks (`dual_attention_layers`).
    """

    config_class = SD3Transformer2DConfig

    def build(self, config: SD3Transformer2DConfig) -> None:
        """Make the layers."""
        super().build(config)
        self.pos_embed = patch_embedding(config, config.pos_embed_max_size)
        self.context_embedder = nn.Linear(config.joint_attention_dim, config.caption_projection_dim)
        width, heads, dual = config.width, config.num_attention_heads, config.dual_attention_layers
        self.transformer_blocks = nn.ModuleList(
            JointTransformerBlock(width, heads, config.eps, dual=i in dual, last=i == config.num_layers - 1)
            for i in range(config.num_layers)
        )
        self.norm_out = AdaptiveNormOut(width)
        self.proj_out = nn.Linear(width, config.patch_size**2 * (config.out_channels or config.in_channels))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        block_controlnet_hidden_states: Sequence[Tensor] | None = None,
        *,
        constants: Constants = NO_CONSTANTS,
    ) -> Tensor:
        """Predict the velocity for latents.

        Args:
            hidden_states: latents `b c h w`.
            encoder_hidden_states: the prompt, `b m k`.
            pooled_projections: the pooled prompt, `b p`.
            timestep: one time for each row, from 0 to 1000.
            block_controlnet_hidden_states: residuals of a control net, `b n width` each, added after every block but
                the last. Each serves several neighbouring blocks where there are fewer residuals than blocks.
            constants: what the layers make of the prompts, for calls with equal ones.

        Returns:
            `b out_channels h w`.

        Raises:
            UnfitValue: latents whose sides are no multiples of `patch_size`, or larger than the position map.
        """
        patch = self.config.patch_size
        size = hidden_states.shape[2] // patch, hidden_states.shape[3] // patch
        x = self.pos_embed(hidden_states)
        emb = self.embed(timestep, pooled_projections, constants)
        context = constants.output(self.context_embedder, encoder_hidden_states)
        x = self.run_layers(SD3Stream(x, context, emb, block_controlnet_hidden_states or ())).x
        return unpatchify(self.proj_out(self.norm_out(x, emb)), size, patch)

    def before_deep(self, stream: SD3Stream, depth: int) -> SD3Stream:
        """Run the first blocks."""
        return self._run(stream, 0, depth)

    def run_deep(self, stream: SD3Stream, depth: int) -> SD3Stream:
        """Run the other blocks."""
        return self._run(stream, depth, len(self.transformer_blocks))

    def _run(self, s: SD3Stream, first: int, stop: int) -> SD3Stream:
        """Run the blocks from `first` to before `stop`."""
        x, context, count = s.x, s.context, len(self.transformer_blocks)
        for i, block in enumerate([*self.transformer_blocks][first:stop], first):
            x, context = block(x, context, s.emb)
            if s.added and i + 1 < count:
                # In floats, as published: i * len(added) // count is not always the same.
                x = x + s.added[int(i / (count / len(s.added)))]
        return s._replace(x=x, context=context)

    def map_tokens(self, stream: SD3Stream, picture: TokenChange, prompt: TokenChange) -> SD3Stream:
        """Return the stream with changed tokens and residuals."""
        return stream._replace(
            x=picture(stream.x), context=prompt(stream.context), added=tuple(map(picture, stream.added))
        )

    def modulated(self, stream: SD3Stream) -> Tensor:
        """Return the modulated input of the first block."""
        return cast("JointTransformerBlock", self.transformer_blocks[0]).norm1(stream.x, stream.emb)[0]

    def deep_blocks(self, depth: int) -> list[str]:
        """Return the paths of all blocks but the first `depth`."""
        return [*self.perturbable_layers().blocks][depth:]

    def perturbable_layers(self) -> PerturbableLayers:
        """All blocks. By default the seventh to ninth are perturbed, as published with SD 3.5 medium."""
        blocks = [f"transformer_blocks.{i}" for i in range(len(self.transformer_blocks))]
        names, patch = ("attn", "attn2"), self.config.patch_size
        feed_forward, default = ("ff", "ff_context"), default_blocks(blocks)
        return PerturbableLayers(
            blocks, default, blocks, names, feed_forward, patch, (), ("attn",), shallow=len(blocks) - 1, modulated=True
        )
