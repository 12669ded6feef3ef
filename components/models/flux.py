"""The transformer of Flux (Black Forest Labs 2024): blocks with two streams of tokens, then blocks with one."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .attention import FeedForward
from .base import Model
from .config import Layers, Width
from .constants import NO_CONSTANTS, Constants
from .deep_layers import LayeredDenoiser, TokenChange
from .embeddings import TimeTextEmbedding
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
    rotary_table,
)


class FluxConfig(TransformerConfig):
    """The keys that the transformer and its control nets share."""

    patch_size: Width = 1
    in_channels: Width = 64
    num_layers: Layers = 19
    num_single_layers: Layers = 38
    attention_head_dim: Width = 128
    num_attention_heads: Width = 24
    joint_attention_dim: Width = 4096
    pooled_projection_dim: Width = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[Width, Width, Width] = (16, 56, 56)

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the rotary axes."""
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            head, got = self.attention_head_dim, " + ".join(map(str, self.axes_dims_rope))
            side = 2 * (7 * head // 32)  # 7 of 16 parts, as an even number
            yield (
                "axes_dims_rope",
                (
                    f"needs a sum of attention_head_dim {head}, got {got}. Weights do not show these numbers. In the "
                    f"proportion of Flux, pass config={{'axes_dims_rope': {(head - 2 * side, side, side)}}}."
                ),
            )
        if any(part % 2 for part in self.axes_dims_rope):
            yield "axes_dims_rope", f"needs even numbers, got {self.axes_dims_rope}: channels are rotated in pairs."


class FluxTransformer2DConfig(FluxConfig):
    """The published keys. `in_channels` and `out_channels` are of packed latents: 4 times those of the autoencoder."""

    out_channels: Width | None = None


class FluxTransformerBlock(nn.Module, TwoStreams):
    """Two streams with their own weights: image and prompt, with joint attention (Esser et al. 2024, figure 2b)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, 6)
        self.norm1_context = AdaptiveNorm(width, 6)
        self.attn = JointAttention(width, heads)
        self.ff = FeedForward(width, GELULayer)
        self.ff_context = FeedForward(width, GELULayer)

    def forward(self, x: Tensor, context: Tensor, emb: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Map the image's tokens `b n c` and the prompt's `b m c`; `emb` `b c` is already activated."""
        normed, (gate, *shift_scale, gate_ff) = self.norm1(x, emb)
        normed_context, (context_gate, *context_shift_scale, context_gate_ff) = self.norm1_context(context, emb)
        attended, context_attended = self.attn(normed, normed_context, rotary)
        x = add_gated(x, gate, attended)
        x = add_gated(x, gate_ff, self.ff(modulate(x, *shift_scale)))
        context = add_gated(context, context_gate, context_attended)
        context = add_gated(context, context_gate_ff, self.ff_context(modulate(context, *context_shift_scale)))
        return x, _clamp(context)


class FluxSingleTransformerBlock(nn.Module):
    """One stream, with attention and feed-forward in parallel (Dehghani et al. 2023, section 2.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(width, 3)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.act_mlp = nn.GELU(approximate="tanh")
        self.attn = SelfAttention(width, heads, out=False)
        self.proj_out = nn.Linear(5 * width, width)

    def forward(self, x: Tensor, emb: Tensor, rotary: Tensor, start: int) -> Tensor:
        """Map `b n c`: the prompt's tokens, and from `start` on the image's."""
        normed, (gate,) = self.norm(x, emb)
        both = torch.cat([self.attn(normed, rotary, start), self.act_mlp(self.proj_mlp(normed))], dim=-1)
        return _clamp(add_gated(x, gate, self.proj_out(both)))


C = TypeVar("C", bound=FluxConfig)


class FluxTrunk(Model[C]):
    """Base of the transformer and its control nets: embeddings, and the two lists of blocks."""

    takes_backend = True

    def build(self, config: C) -> None:
        """Make the embeddings and the blocks."""
        width, heads = config.width, config.num_attention_heads
        self.time_text_embed = TimeTextEmbedding(config.pooled_projection_dim, width, guidance=config.guidance_embeds)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(FluxTransformerBlock(width, heads) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(width, heads) for _ in range(config.num_single_layers)
        )

    def rotary(self, txt_ids: Tensor, img_ids: Tensor) -> Tensor:
        """Make the rotations of tokens at positions `m 3` and `n 3`. They depend on no step: make them once a shape."""
        return rotary_table(torch.cat([txt_ids, img_ids]), self.config.axes_dims_rope)

    def rotary_or(self, made: Tensor | None, txt_ids: Tensor | None, img_ids: Tensor | None) -> Tensor:
        """Return the rotations that are made already, or else those of the ids.

        Raises:
            UnfitValue: neither is passed.
        """
        if made is not None:
            return made
        if img_ids is None or txt_ids is None:
            raise UnfitValue("Needs the positions of tokens, got none. Pass img_ids and txt_ids, or image_rotary_emb.")
        return self.rotary(txt_ids, img_ids)

    def embed(
        self,
        times: Tensor,
        pooled: Tensor,
        guidance: Tensor | None,
        dtype: torch.dtype,
        constants: Constants = NO_CONSTANTS,
    ) -> Tensor:
        """Embed times and guidance `b` and the pooled prompt `b p` as one activated vector `b c`.

        It is activated once, where the published code does it again for each of 77 modulations. Times are rounded to
        `dtype` before they are scaled, as published: in bfloat16 the error is up to 4 of 1000.
        """
        scales = None if guidance is None else guidance.to(dtype) * 1000
        return F.silu(self.time_text_embed(times.to(dtype) * 1000, pooled, scales, constants))


class FluxStream(NamedTuple):
    """The values between two blocks. x, context: tokens of image and prompt; the rest are inputs of all blocks."""

    x: Tensor
    context: Tensor
    emb: Tensor
    rotary: Tensor
    added: Sequence[Tensor]
    added_single: Sequence[Tensor]
    in_turn: bool


class FluxTransformer2DModel(FluxTrunk[FluxTransformer2DConfig], LayeredDenoiser[FluxStream]):
    """Predicts velocity from packed latents, a time and a prompt. Parameter names and config keys are published.

    Blocks with two streams are from Esser et al. 2024 (section 4), those with one from Dehghani et al. 2023, rotary
    positions from Su et al. 2021. Config keys that differ between checkpoints: `guidance_embeds` is true for dev and
    false for schnell; Fill has 384 `in_channels` and 64 `out_channels`.
    """

    config_class = FluxTransformer2DConfig

    def build(self, config: FluxTransformer2DConfig) -> None:
        """Make the layers."""
        super().build(config)
        self.norm_out = AdaptiveNormOut(config.width)
        self.proj_out = nn.Linear(config.width, config.patch_size**2 * (config.out_channels or config.in_channels))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor | None = None,
        txt_ids: Tensor | None = None,
        guidance: Tensor | None = None,
        *,
        image_rotary_emb: Tensor | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        controlnet_single_block_samples: Sequence[Tensor] | None = None,
        controlnet_blocks_repeat: bool = False,
        constants: Constants = NO_CONSTANTS,
    ) -> Tensor:
        """Predict the velocity for packed latents.

        Args:
            hidden_states: `b n c`: tokens of 2 x 2 latents each, then the tokens of reference images.
            encoder_hidden_states: the prompt, `b m k`.
            pooled_projections: the pooled prompt, `b p`.
            timestep: one time for each row, from 0 to 1.
            img_ids: positions of the image's tokens, `n 3`.
            txt_ids: positions of the prompt's tokens, `m 3`.
            guidance: one scale for each row, for models with `guidance_embeds` and no others.
            image_rotary_emb: the result of `rotary`, in place of the ids.
            controlnet_block_samples: residuals `b n c`, added after the blocks with two streams. Each serves
                ceil(blocks / samples) neighbouring blocks, or with `controlnet_blocks_repeat` every samples-th block.
            controlnet_blocks_repeat: see `controlnet_block_samples`.
            controlnet_single_block_samples: the same for the blocks with one stream.
            constants: what the layers make of the prompts and of `guidance`, for calls with equal ones.

        Returns:
            `b n c` with the config's out_channels.

        Raises:
            UnfitValue: no positions; guidance that is missing, or that the model does not read.
        """
        rotary = self.rotary_or(image_rotary_emb, txt_ids, img_ids)
        x = self.x_embedder(hidden_states)
        emb = self.embed(timestep, pooled_projections, guidance, x.dtype, constants)
        context = constants.output(self.context_embedder, encoder_hidden_states)
        stream = FluxStream(
            x,
            context,
            emb,
            rotary,
            controlnet_block_samples or (),
            controlnet_single_block_samples or (),
            controlnet_blocks_repeat,
        )
        return self.proj_out(self.norm_out(self.run_layers(stream).x, emb))

    def before_deep(self, stream: FluxStream, depth: int) -> FluxStream:
        """Run the first blocks."""
        return self._run(stream, 0, depth)

    def run_deep(self, stream: FluxStream, depth: int) -> FluxStream:
        """Run the other blocks."""
        return self._run(stream, depth, len(self.transformer_blocks) + len(self.single_transformer_blocks))

    def _run(self, s: FluxStream, first: int, stop: int) -> FluxStream:
        """Run the blocks from `first` to before `stop`, those with two streams before those with one."""
        x, context, two = s.x, s.context, len(self.transformer_blocks)
        for i, block in enumerate([*self.transformer_blocks][first:stop], first):
            x, context = block(x, context, s.emb, s.rotary)
            if s.added:
                per = -(-two // len(s.added))
                x = x + s.added[i % len(s.added) if s.in_turn else i // per]
        first, stop = max(first - two, 0), stop - two
        if stop > first:
            start = context.shape[1]
            x = torch.cat([context, x], dim=1)
            for i, block in enumerate([*self.single_transformer_blocks][first:stop], first):
                x = block(x, s.emb, s.rotary, start)
                if s.added_single:
                    per = -(-len(self.single_transformer_blocks) // len(s.added_single))
                    x = torch.cat([x[:, :start], x[:, start:] + s.added_single[i // per]], dim=1)
            context, x = x[:, :start], x[:, start:]
        return s._replace(x=x, context=context)

    def map_tokens(self, stream: FluxStream, picture: TokenChange, prompt: TokenChange) -> FluxStream:
        """Return the stream with changed tokens, rotations and residuals."""
        count = stream.context.shape[1]
        return stream._replace(
            x=picture(stream.x),
            context=prompt(stream.context),
            rotary=torch.cat([prompt(stream.rotary[:, :count]), picture(stream.rotary[:, count:])], dim=1),
            added=tuple(map(picture, stream.added)),
            added_single=tuple(map(picture, stream.added_single)),
        )

    def modulated(self, stream: FluxStream) -> Tensor:
        """Return the modulated input of the first block."""
        first: Any = [*self.transformer_blocks, *self.single_transformer_blocks][0]  # of either class
        norm = first.norm1 if len(self.transformer_blocks) else first.norm
        return norm(stream.x, stream.emb)[0]

    def deep_blocks(self, depth: int) -> list[str]:
        """Return the paths of all blocks but the first `depth`."""
        return [*self.perturbable_layers().blocks][depth:]

    def perturbable_layers(self) -> PerturbableLayers:
        """All blocks. By default some of those with two streams are perturbed."""
        first = [f"transformer_blocks.{i}" for i in range(len(self.transformer_blocks))]
        blocks = [*first, *(f"single_transformer_blocks.{i}" for i in range(len(self.single_transformer_blocks)))]
        default, feed_forward = default_blocks(first or blocks), ("ff", "ff_context", "act_mlp")
        return PerturbableLayers(
            blocks, default, blocks, ("attn",), feed_forward, 2, (), ("attn",), shallow=len(blocks) - 1, modulated=True
        )


def _clamp(x: Tensor) -> Tensor:
    """Clamp float16 to its largest numbers, as published: the prompt's stream overflows there."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x
