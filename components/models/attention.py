"""Attention, and the transformer that U-Nets have between their residual blocks."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.table import AUTOMATIC
from .constants import Constants


class AttentionKernel(Protocol):
    """The innermost part of attention: a backend, or what chooses one. All tensors are `b heads n d`."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Compute softmax(q kᵀ / √d + mask) v."""
        ...

    def with_logsumexp(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the same, and the logarithm of the sum of the exponentials of the scores, `b heads n` in float32."""
        ...


class KeysValues(NamedTuple):
    """The prompt as attention reads it, made before: keys and values `b heads m d`.

    first: those of the first attention of a block, where that attends to the prompt too.
    """

    keys: Tensor
    values: Tensor
    first: "KeysValues | None" = None


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

    def forward(self, x: Tensor, context: Tensor | KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """Map tokens `b n c`, which attend to `context`, or to each other. `mask` is added to the scores.

        context: the prompt `b m k`, or the keys and values that this layer has made of it.
        """
        q = self._with_heads(self.to_q(x))
        if isinstance(context, KeysValues):
            k, v = context.keys, context.values
        else:
            source = x if context is None else context
            k, v = self._with_heads(self.to_k(source)), self._with_heads(self.to_v(source))
        return self.to_out(self.scaled_dot_product(self.queries(q), k, v, mask).transpose(1, 2).flatten(2))

    def _with_heads(self, projected: Tensor) -> Tensor:
        return projected.unflatten(2, (self.heads, -1)).transpose(1, 2)  # b heads n d

    def keys_values(self, context: Tensor, constants: Constants) -> KeysValues:
        """Return the keys and values of a prompt `b m k` that no step changes."""
        keys, values = (
            constants.of(layer, lambda layer=layer: self._with_heads(layer(context)))
            for layer in (self.to_k, self.to_v)
        )
        return KeysValues(keys, values)


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


class AttendsToPrompt(nn.Module):
    """Base of blocks that attend to the prompt in `attn2`."""

    def keys_values(self, context: Tensor, constants: Constants) -> Tensor | KeysValues:
        """Return the keys and values of a prompt `b m k` that no step changes; itself where the layer reads tokens."""
        layer = self.attn2
        return layer.keys_values(context, constants) if isinstance(layer, Attention) else context


@dataclass(frozen=True)
class TransformerStyle:
    """The settings that all transformers of one level share."""

    heads: int
    context_channels: int
    linear_projection: bool
    only_cross_attention: bool
    groups: int


class BasicTransformerBlock(AttendsToPrompt):
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

    def forward(self, x: Tensor, context: Tensor | KeysValues, mask: Tensor | None) -> Tensor:
        """Map tokens `b n c`; `context` is the prompt, and `mask` is added to its scores.

        context: `b m k`, or the result of `keys_values`.
        """
        x = self.attn1(self.norm1(x), self.first_context(context)) + x
        x = self.attn2(self.norm2(x), context, mask) + x
        return self.ff(self.norm3(x)) + x

    def first_context(self, context: Tensor | KeysValues) -> Tensor | KeysValues | None:
        """Return what the first attention attends to; None is its own tokens."""
        if not self.only_cross_attention:
            return None
        return context.first if isinstance(context, KeysValues) else context

    def keys_values(self, context: Tensor, constants: Constants) -> Tensor | KeysValues:
        """Return the keys and values of a prompt `b m k` that no step changes; itself where a layer reads tokens."""
        made, first = super().keys_values(context, constants), self._modules["attn1"]
        if not self.only_cross_attention or not isinstance(made, KeysValues):
            return made
        return made._replace(first=first.keys_values(context, constants)) if isinstance(first, Attention) else context


class Prompt(NamedTuple):
    """The prompt as the blocks of a denoiser read it.

    tokens: `b m k`. mask: added to the scores, or None. constants: what the layers make of the prompt.
    """

    tokens: Tensor
    mask: Tensor | None
    constants: Constants

    def read_by(self, block: nn.Module) -> Tensor | KeysValues:
        """Return the keys and values for a block, where they are kept, or the tokens."""
        if self.constants.keeps and isinstance(block, AttendsToPrompt):
            return block.keys_values(self.tokens, self.constants)
        return self.tokens


def prompt_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turn a mask `b m`, 0 for tokens that are ignored, into a term of the scores `b 1 1 m`."""
    if mask is None:
        return None
    # As published: -10000 and not -inf, so that a prompt of padding alone does not become NaN.
    return ((1 - mask.to(dtype)) * -10000.0)[:, None, None]


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

    def forward(self, x: Tensor, prompt: Prompt) -> Tensor:
        """Map `b c h w` to the same shape."""
        h = self.norm(x)
        if self.linear_projection:
            h = self.proj_in(h.flatten(2).transpose(1, 2))  # b (h w) c
        else:
            h = self.proj_in(h).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, prompt.read_by(block), prompt.mask)
        if self.linear_projection:
            return x + self.proj_out(h).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.proj_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


class PassThrough(nn.Module):
    """Takes the place of a transformer in a level without attention, and changes nothing."""

    def forward(self, x: Tensor, prompt: Prompt) -> Tensor:
        """Return `x`."""
        return x
