"""Control nets for Stable Diffusion 3 and 3.5: blocks of the transformer again, told of a control image."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from .patch_embedding import PatchEmbed
from .sd3 import JointTransformerBlock, SD3Config, SD3Trunk, patches, stream_width_problems
from .transformer_layers import AdaptiveNorm, GELUFeedForward, SelfAttention, gated, modulated


class SD3ControlNetConfig(SD3Config):
    """Keys and defaults as published."""

    joint_attention_dim: int | None = 4096
    pos_embed_max_size: int | None = 96
    extra_conditioning_channels: int = 0
    pos_embed_type: Literal["sincos"] | None = "sincos"
    use_pos_embed: bool = True
    force_zeros_for_pooled_projection: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from super().problems()
        if self.joint_attention_dim is not None:
            yield from stream_width_problems(self)
        if self.use_pos_embed and self.pos_embed_type is not None and self.pos_embed_max_size is None:
            yield "pos_embed_max_size", "is null, but use_pos_embed wants a map of positions. Give its size."


class SD3SingleTransformerBlock(nn.Module):
    """The image's stream alone: attention to itself and feed-forward, both modulated (Peebles & Xie 2023)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, 6)
        self.attn = SelfAttention(width, heads, eps=None)
        self.ff = GELUFeedForward(width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Maps `b n c`; `emb` `b c` is activated."""
        normed, (gate, shift, scale, gate_ff) = self.norm1(x, emb)
        x = gated(x, gate, self.attn(normed))
        return gated(x, gate_ff, self.ff(modulated(x, shift, scale)))


class SD3ControlNetModel(SD3Trunk[SD3ControlNetConfig]):
    """Reads the same as the transformer, and a control image (Zhang et al. 2023, with transformer blocks).

    Those published with SD 3.5 large read no prompt tokens (`joint_attention_dim` null) and have no position map: they
    take the tokens that the transformer's own `pos_embed` makes of the latents.
    """

    config_class = SD3ControlNetConfig

    def build(self, config: SD3ControlNetConfig) -> None:
        super().build(config)
        width, heads, dual, tokens = (
            config.width,
            config.num_attention_heads,
            config.dual_attention_layers,
            config.joint_attention_dim,
        )
        positions = None if config.pos_embed_type is None else config.pos_embed_max_size
        self.pos_embed = patches(config, positions) if config.use_pos_embed else None
        self.context_embedder = None if tokens is None else nn.Linear(tokens, config.caption_projection_dim)
        self.transformer_blocks = nn.ModuleList(
            SD3SingleTransformerBlock(width, heads)
            if tokens is None
            else JointTransformerBlock(width, heads, config.eps, dual=i in dual)
            for i in range(config.num_layers)
        )
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        channels = config.in_channels + config.extra_conditioning_channels
        self.pos_embed_input = PatchEmbed(channels, width, config.patch_size, positions=None)
        for parameter in [*self.controlnet_blocks.parameters(), *self.pos_embed_input.parameters()]:
            nn.init.zeros_(parameter)  # at first it adds nothing

    def forward(
        self,
        hidden_states: Tensor,
        controlnet_cond: Tensor,
        encoder_hidden_states: Tensor | None,
        pooled_projections: Tensor,
        timestep: Tensor,
        conditioning_scale: float = 1.0,
    ) -> tuple[Tensor, ...]:
        """What to add behind the transformer's blocks, `b n width` each. Arguments as there.

        Args:
            hidden_states: latents `b c h w`; tokens `b n width` where `pos_embed` is None.
            controlnet_cond: the control image as latents, with its extra channels, `b c h w`.
            encoder_hidden_states: the prompt; not read where `context_embedder` is None.
            conditioning_scale: what the answer is multiplied with.

        Raises:
            TypeError: no prompt for a net that reads one.
        """
        x = hidden_states if self.pos_embed is None else self.pos_embed(hidden_states)
        x = x + self.pos_embed_input(controlnet_cond)
        emb = self.embed(timestep, pooled_projections)
        context = None
        if self.context_embedder is not None:
            if encoder_hidden_states is None:
                raise TypeError("encoder_hidden_states is missing: this control net reads the prompt's tokens.")
            context = self.context_embedder(encoder_hidden_states)
        added: list[Tensor] = []
        for block, layer in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            if context is None:
                x = block(x, emb)
            else:
                x, context = block(x, context, emb)
            added.append(layer(x) * conditioning_scale)
        return tuple(added)
