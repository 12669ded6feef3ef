"""Control nets of Stable Diffusion 3 and 3.5: copies of the transformer's blocks that also read a control image."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .attention import FeedForward
from .config import Channels, Rows, Width
from .constants import NO_CONSTANTS, Constants
from .initialization import zero_init
from .patch_embedding import PatchEmbed
from .sd3 import JointTransformerBlock, SD3Config, SD3Trunk, patch_embedding, stream_width_problems
from .transformer_layers import AdaptiveNorm, GELULayer, SelfAttention, add_gated, modulate


class SD3ControlNetConfig(SD3Config):
    """The published keys. `joint_attention_dim` is None for nets that read no prompt tokens."""

    joint_attention_dim: Width | None = 4096
    pos_embed_max_size: Rows | None = 96
    extra_conditioning_channels: Channels = 0
    pos_embed_type: Literal["sincos"] | None = "sincos"
    use_pos_embed: bool = True
    force_zeros_for_pooled_projection: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the widths and the position map."""
        yield from super().problems()
        if self.joint_attention_dim is not None:
            yield from stream_width_problems(self)
        if self.use_pos_embed and self.pos_embed_type is not None and self.pos_embed_max_size is None:
            yield "pos_embed_max_size", "needs a number, got null: use_pos_embed asks for a position map of that side."


class SD3SingleTransformerBlock(nn.Module):
    """One stream, the image's: self-attention and feed-forward, both modulated (Peebles & Xie 2023, figure 3)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(width, 6)
        self.attn = SelfAttention(width, heads, eps=None)
        self.ff = FeedForward(width, GELULayer)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map `b n c`; `emb` `b c` is already activated."""
        normed, (gate, shift, scale, gate_ff) = self.norm1(x, emb)
        x = add_gated(x, gate, self.attn(normed))
        return add_gated(x, gate_ff, self.ff(modulate(x, shift, scale)))


class SD3ControlNetModel(SD3Trunk[SD3ControlNetConfig]):
    """Makes residuals for the transformer from its inputs and a control image (Zhang et al. 2023, section 3.1).

    Those published with SD 3.5 large read no prompt tokens (`joint_attention_dim` null) and have no position map: they
    take the tokens that the transformer's own `pos_embed` makes of the latents. Parameter names and config keys are
    published.
    """

    config_class = SD3ControlNetConfig

    def build(self, config: SD3ControlNetConfig) -> None:
        """Make the copy of the transformer's blocks, and layers of zeros after them."""
        super().build(config)
        width, heads, dual, tokens = (
            config.width,
            config.num_attention_heads,
            config.dual_attention_layers,
            config.joint_attention_dim,
        )
        positions = None if config.pos_embed_type is None else config.pos_embed_max_size
        self.pos_embed = patch_embedding(config, positions) if config.use_pos_embed else None
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
        zero_init(self.controlnet_blocks)
        zero_init(self.pos_embed_input)

    def forward(
        self,
        hidden_states: Tensor,
        controlnet_cond: Tensor,
        encoder_hidden_states: Tensor | None,
        pooled_projections: Tensor,
        timestep: Tensor,
        conditioning_scale: float = 1.0,
        *,
        constants: Constants = NO_CONSTANTS,
    ) -> tuple[Tensor, ...]:
        """Compute residuals for the transformer's blocks, `b n width` each.

        Args:
            hidden_states: latents `b c h w`; tokens `b n width` where `pos_embed` is None.
            controlnet_cond: the control image as latents, with its extra channels, `b c h w`.
            encoder_hidden_states: the prompt `b m k`; not read where `context_embedder` is None.
            pooled_projections: the pooled prompt, `b p`.
            timestep: one time for each row, from 0 to 1000.
            conditioning_scale: a factor of all residuals.
            constants: what the layers make of the prompts, for calls with equal ones.

        Raises:
            UnfitValue: no prompt for a net that reads one; see the transformer.
        """
        x = hidden_states if self.pos_embed is None else self.pos_embed(hidden_states)
        x = x + self.pos_embed_input(controlnet_cond)
        emb = self.embed(timestep, pooled_projections, constants)
        context = None
        if self.context_embedder is not None:
            if encoder_hidden_states is None:
                raise UnfitValue("Needs encoder_hidden_states, got None: this control net reads the prompt's tokens.")
            context = constants.output(self.context_embedder, encoder_hidden_states)
        residuals: list[Tensor] = []
        for block, layer in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            if context is None:
                x = block(x, emb)
            else:
                x, context = block(x, context, emb)
            residuals.append(layer(x) * conditioning_scale)
        return tuple(residuals)
