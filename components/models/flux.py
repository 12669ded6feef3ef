"""The transformer of Flux (Black Forest Labs 2024): two streams of tokens, then one."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model
from .config import Config
from .embeddings import TimeTextEmbedding
from .taps import PerturbableLayers, default_blocks
from .transformer_layers import (
    AdaptiveNorm,
    AdaptiveNormOut,
    GELUFeedForward,
    JointAttention,
    SelfAttention,
    gated,
    modulated,
    rotary_table,
)


class FluxConfig(Config):
    """The keys that the transformer and its control nets share."""

    patch_size: int = 1
    in_channels: int = 64
    num_layers: int = 19
    num_single_layers: int = 38
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 4096
    pooled_projection_dim: int = 768
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def problems(self) -> Iterator[tuple[str, str]]:
        if sum(self.axes_dims_rope) != self.attention_head_dim:
            parts = " + ".join(map(str, self.axes_dims_rope))
            yield "axes_dims_rope", f"is {parts}, which is not attention_head_dim {self.attention_head_dim}."
        if any(part % 2 for part in self.axes_dims_rope):
            yield "axes_dims_rope", f"is {self.axes_dims_rope}, but channels are turned in pairs."


class FluxTransformer2DConfig(FluxConfig):
    """Keys and defaults as published."""

    out_channels: int | None = None


class FluxTransformerBlock(nn.Module):
    """Image and prompt in weights of their own, looking at each other (Esser et al. 2024, figure 2b)."""

    streams = 2

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, 6)
        self.norm1_context = AdaptiveNorm(width, 6)
        self.attn = JointAttention(width, heads)
        self.ff = GELUFeedForward(width)
        self.ff_context = GELUFeedForward(width)

    def forward(self, x: Tensor, context: Tensor, emb: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the image's tokens `b n c` and the prompt's `b m c`; `emb` `b c` is activated."""
        normed, (gate, *shift_scale, gate_ff) = self.norm1(x, emb)
        normed_context, (context_gate, *context_shift_scale, context_gate_ff) = self.norm1_context(context, emb)
        seen, context_seen = self.attn(normed, normed_context, rotary)
        x = gated(x, gate, seen)
        x = gated(x, gate_ff, self.ff(modulated(x, *shift_scale)))
        context = gated(context, context_gate, context_seen)
        context = gated(context, context_gate_ff, self.ff_context(modulated(context, *context_shift_scale)))
        return x, _finite(context)


class FluxSingleTransformerBlock(nn.Module):
    """One stream, with attention and feed-forward beside each other (Dehghani et al. 2023, section 2.1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = AdaptiveNorm(width, 3)
        self.proj_mlp = nn.Linear(width, 4 * width)
        self.act_mlp = nn.GELU(approximate="tanh")
        self.attn = SelfAttention(width, heads, out=False)
        self.proj_out = nn.Linear(5 * width, width)

    def forward(self, x: Tensor, emb: Tensor, rotary: Tensor, start: int) -> Tensor:
        """Maps `b n c`: the prompt's tokens, and from `start` on the image's."""
        normed, (gate,) = self.norm(x, emb)
        both = torch.cat([self.attn(normed, rotary, start), self.act_mlp(self.proj_mlp(normed))], dim=-1)
        return _finite(gated(x, gate, self.proj_out(both)))


C = TypeVar("C", bound=FluxConfig)


class FluxTrunk(Model[C]):
    """What the transformer and its control nets share: embeddings, and the two stacks of blocks."""

    def build(self, config: C) -> None:
        width, heads = config.width, config.num_attention_heads
        self.time_text_embed = TimeTextEmbedding(config.pooled_projection_dim, width, guidance=config.guidance_embeds)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        self.x_embedder = nn.Linear(config.in_channels, width)
        self.transformer_blocks = nn.ModuleList(FluxTransformerBlock(width, heads) for _ in range(config.num_layers))
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(width, heads) for _ in range(config.num_single_layers)
        )

    def rotary(self, txt_ids: Tensor, img_ids: Tensor) -> Tensor:
        """The rotations of tokens at these places, `m 3` and `n 3`. Depends on no step: make it once a shape."""
        return rotary_table(torch.cat([txt_ids, img_ids]), self.config.axes_dims_rope)

    def placed(self, txt_ids: Tensor | None, img_ids: Tensor | None, given: Tensor | None) -> Tensor:
        """The rotations that are given, or those of the ids. TypeError without either."""
        if given is not None:
            return given
        if img_ids is None or txt_ids is None:
            raise TypeError("Tokens need places: give img_ids and txt_ids, or image_rotary_emb.")
        return self.rotary(txt_ids, img_ids)

    def embed(self, times: Tensor, pooled: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Time, guidance and pooled prompt as one vector `b c`.

        Activated here, once, where the published code does it again for each of 77 modulations. Times are rounded to
        `dtype` before they are scaled, as published: in bfloat16 that is up to 4 of 1000.
        """
        given = None if guidance is None else guidance.to(dtype) * 1000
        return F.silu(self.time_text_embed(times.to(dtype) * 1000, pooled, given))


class FluxTransformer2DModel(FluxTrunk[FluxTransformer2DConfig]):
    """Predicts velocity from packed latents, a time and a prompt. Names of parameters and config keys are published.

    Esser et al. 2024 (section 4) for the first blocks, Dehghani et al. 2023 for the others, rotary places by Su et al.
    2021. Schnell has no guidance embedding, dev has; Fill takes 384 channels and gives 64.
    """

    config_class = FluxTransformer2DConfig

    def build(self, config: FluxTransformer2DConfig) -> None:
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
    ) -> Tensor:
        """The prediction for packed latents.

        Args:
            hidden_states: `b n c`, 2 x 2 latents a token, then tokens of reference images.
            encoder_hidden_states: the prompt, `b m k`.
            pooled_projections: the pooled prompt, `b p`.
            timestep: one for each row, from 0 to 1.
            img_ids: places of the image's tokens, `n 3`; txt_ids: of the prompt's, `m 3`.
            guidance: one scale for each row, for models distilled with guidance and no others.
            image_rotary_emb: what `rotary` makes of the ids, in their stead.
            controlnet_block_samples: `b n c` each, added behind the first blocks: each one after ceil(blocks /
                samples) blocks in a row, or, with `controlnet_blocks_repeat`, in turn.
            controlnet_single_block_samples: likewise behind the second blocks.

        Returns:
            `b n c` with the config's out_channels.

        Raises:
            TypeError: no places, or guidance that is missing or has no place.
        """
        rotary = self.placed(txt_ids, img_ids, image_rotary_emb)
        x = self.x_embedder(hidden_states)
        emb = self.embed(timestep, pooled_projections, guidance, x.dtype)
        context = self.context_embedder(encoder_hidden_states)
        added = controlnet_block_samples or ()
        for i, block in enumerate(self.transformer_blocks):
            x, context = block(x, context, emb, rotary)
            if added:
                per = -(-len(self.transformer_blocks) // len(added))
                x = x + added[i % len(added) if controlnet_blocks_repeat else i // per]
        start = context.shape[1]
        x = torch.cat([context, x], dim=1)
        added = controlnet_single_block_samples or ()
        for i, block in enumerate(self.single_transformer_blocks):
            x = block(x, emb, rotary, start)
            if added:
                per = -(-len(self.single_transformer_blocks) // len(added))
                x = torch.cat([x[:, :start], x[:, start:] + added[i // per]], dim=1)
        return self.proj_out(self.norm_out(x[:, start:], emb))

    def perturbable_layers(self) -> PerturbableLayers:
        """All blocks; usually some of those with two streams are perturbed."""
        first = [f"transformer_blocks.{i}" for i in range(len(self.transformer_blocks))]
        blocks = [*first, *(f"single_transformer_blocks.{i}" for i in range(len(self.single_transformer_blocks)))]
        return PerturbableLayers(
            blocks, default_blocks(first or blocks), blocks, ("attn",), ("ff", "ff_context", "act_mlp"), patch=2
        )


def _finite(x: Tensor) -> Tensor:
    """In float16 the prompt's stream runs over; published: it is cut off at the largest number there is."""
    return x.clamp(-65504, 65504) if x.dtype == torch.float16 else x
