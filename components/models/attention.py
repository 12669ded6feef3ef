"""Attention, and the transformer that U-Nets have between their residual blocks."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.table import AUTOMATIC


class AttentionKernel(Protocol):
    """The innermost part of attention: a backend, or what chooses one. All tensors are `b heads n d`."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute softmax(q kᵀ / √d + mask) v."""
        ...

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the same, and the logarithm of the sum of the exponentials of the scores, `b heads n` in float32."""
        ...


class AttentionCore(nn.Module):
    """Base of all attention of denoisers and autoencoders: the two methods that a view may override, and no others.

    A view may also have another `kernel`. It is inside of everything that the methods do.
    """

    kernel: AttentionKernel = AUTOMATIC

    def queries(self, q: Tensor, start: int = 0) -> Tensor:
        """Return the queries to use, `b heads n d`. Tokens from `start` on are the image's."""
        return q

    def scaled_dot_product(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int = 0) -> Tensor:
        """Compute softmax(q kᵀ / √d + mask) v, with q, k, v as `b heads n d` (Vaswani et al. 2017, equation 1).

        Tokens from `start` on are the image's.
        """
        return self.kernel(q, k, v, mask)


class Attention(AttentionCore):
    """Scaled dot-product attention with several heads (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context_channels: int,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_channels, channels, bias=bias)
        self.to_v = nn.Linear(context_channels, channels, bias=bias)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Map tokens `b n c`, which attend to `context` `b m k`, or to each other. `mask` is added to the scores."""
        source = x if context is None else context
        q = self.to_q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # b heads n d
        k = self.to_k(source).unflatten(2, (self.heads, -1)).transpose(1, 2)
        v = self.to_v(source).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.to_out(self.scaled_dot_product(self.queries(q), k, v, mask).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """A linear layer that multiplies one half of its output by GELU of the other (Shazeer 2020, equation 6)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b n channels` to `b n inner`."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Two layers with four times the width between them. Published as `net.0` and `net.2`."""

    def __init__(self, channels: int, first: type[nn.Module] = GEGLU) -> None:
        """`first(channels, inner)` is the first layer, with its activation."""
        super().__init__()
        inner = channels * 4
        self.net = nn.Sequential(first(channels, inner), nn.Identity(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `b n c`."""
        return self.net(x)


@dataclass(frozen=True)
class TransformerStyle:
    """The settings that all transformers of one level share."""

    heads: int
    context_channels: int
    linear_projection: bool
    only_cross_attention: bool
    groups: int


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the prompt, feed-forward: each after a norm, and added to its input.

    With `only_cross_attention` the first attends to the prompt too. As published, it is not masked then.
    """

    def __init__(self, channels: int, style: TransformerStyle) -> None:
        super().__init__()
        prompt = style.context_channels
        first = prompt if style.only_cross_attention else channels
        self.only_cross_attention = style.only_cross_attention
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads=style.heads, context_channels=first)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads=style.heads, context_channels=prompt)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens `b n c`; `context` is the prompt `b m k`, and `mask` is added to its scores."""
        x = self.attn1(self.norm1(x), context if self.only_cross_attention else None) + x
        x = self.attn2(self.norm2(x), context, mask) + x
        return self.ff(self.norm3(x)) + x


class Transformer2DModel(nn.Module):
    """A transformer over the pixels of a feature map, added to the map (Rombach et al. 2022, appendix E.2.1)."""

    def __init__(self, channels: int, layers: int, style: TransformerStyle) -> None:
        super().__init__()
        self.linear_projection = style.linear_projection
        self.norm = nn.GroupNorm(style.groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels)
        self.transformer_blocks = nn.ModuleList(BasicTransformerBlock(channels, style) for _ in range(layers))
        self.proj_out = self._projection(channels)

    def _projection(self, channels: int) -> nn.Module:
        return nn.Linear(channels, channels) if self.linear_projection else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `b c h w` to the same shape; `context` is the prompt `b m k`, and `mask` is added to its scores."""
        h = self.norm(x)
        if self.linear_projection:
            h = self.proj_in(h.flatten(2).transpose(1, 2))  # b (h w) c
        else:
            h = self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context, mask)
        if self.linear_projection:
            return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class PassThrough(nn.Module):
    """Takes the place of a transformer in a level without attention, and changes nothing."""

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `x`."""
        return x
