"""The layers of diffusion transformers: attention of one and of two streams, adaptive norms, rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionCore
from .config import Config, Width

Projected = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values."""


class TransformerConfig(Config):
    """The keys that set the width of a diffusion transformer."""

    attention_head_dim: Width
    num_attention_heads: Width

    @property
    def width(self) -> int:
        """Channels of the tokens."""
        return self.num_attention_heads * self.attention_head_dim


class TwoStreams:
    """Marks a module whose first two inputs are the image's and the prompt's tokens, and that returns both."""


class AdaptiveNorm(nn.Module):
    """A layer norm whose shift, scale and gates are made from an embedding (Peebles & Xie 2023, section 3.2).

    `parts` is how many vectors it makes: a shift and a scale, which it applies, and others, which it returns.
    """

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(channels, parts * channels)

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Map `b n c`; return the other parts too, `b 1 c` each. `emb` `b c` is already activated."""
        shift, scale, *rest = self.linear(emb)[:, None].chunk(self.parts, dim=-1)
        return modulate(x, shift, scale), tuple(rest)


class AdaptiveNormOut(nn.Module):
    """The last norm of a diffusion transformer, published with its scale before its shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map `b n c`; `emb` `b c` is already activated."""
        scale, shift = self.linear(emb)[:, None].chunk(2, dim=-1)
        return modulate(x, shift, scale)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Norm `b n c` to mean 0 and variance 1, scale it by 1 + `scale` and add `shift`, both `b 1 c`."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def add_gated(x: Tensor, gate: Tensor, added: Tensor) -> Tensor:
    """Compute x + gate * added."""
    return torch.addcmul(x, gate, added)


class GELULayer(nn.Module):
    """A linear layer and the tanh form of GELU (Hendrycks & Gimpel 2016, section 2)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b n channels` to `b n inner`."""
        return F.gelu(self.proj(x), approximate="tanh")


class NormedAttention(AttentionCore):
    """Attention with norms of queries and keys (Dehghani et al. 2023, section 2.1) and rotary positions.

    eps: of the norms; None is no norms.
    """

    def __init__(self, channels: int, heads: int, eps: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.norm_q, self.norm_k = (_norm(channels // heads, eps) for _ in range(2))

    def project(self, x: Tensor) -> Projected:
        """Return queries, keys and values of tokens `b n c`, each `b n c`."""
        return self.to_q(x), self.to_k(x), self.to_v(x)

    def heads_of(self, projected: Projected, start: int = 0) -> Projected:
        """Return normed queries, normed keys and values as `b n heads d`. Tokens from `start` on are the image's."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in projected)
        return self.norm_q(self.queries(q.transpose(1, 2), start).transpose(1, 2)), self.norm_k(k), v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rotary: Tensor | None, start: int = 0) -> Tensor:
        """Return `b n c` for queries, keys and values `b n heads d`. Tokens from `start` on are the image's."""
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return self.scaled_dot_product(q, k, v, None, start).transpose(1, 2).flatten(2)


class SelfAttention(NormedAttention):
    """Tokens that attend to each other. out: whether the last layer is linear."""

    def __init__(self, channels: int, heads: int, *, eps: float | None = 1e-6, out: bool = True) -> None:
        super().__init__(channels, heads, eps)
        self.to_out = nn.Sequential(nn.Linear(channels, channels)) if out else nn.Identity()

    def forward(self, x: Tensor, rotary: Tensor | None = None, start: int = 0) -> Tensor:
        """Map `b n c`; `rotary` from `rotary_table`. Tokens from `start` on are the image's."""
        return self.to_out(self.attend(*self.heads_of(self.project(x), start), rotary, start))


class JointAttention(NormedAttention, TwoStreams):
    """Two streams of tokens with their own weights, in which all tokens attend to all (Esser et al. 2024, section 4).

    context_out: whether the prompt's stream goes on after this.
    """

    def __init__(self, channels: int, heads: int, *, eps: float | None = 1e-6, context_out: bool = True) -> None:
        super().__init__(channels, heads, eps)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.norm_added_q, self.norm_added_k = (_norm(channels // heads, eps) for _ in range(2))
        self.to_add_out = nn.Linear(channels, channels) if context_out else None

    def project_context(self, x: Tensor) -> Projected:
        """Return queries, keys and values of the prompt's tokens `b m c`, each `b m c`."""
        return self.add_q_proj(x), self.add_k_proj(x), self.add_v_proj(x)

    def forward(self, x: Tensor, context: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map the image's tokens `b n c` and the prompt's `b m c`. The prompt's are first in `rotary`.

        Without `context_out` the prompt's tokens are returned unchanged.
        """
        aq, ak, av = (t.unflatten(-1, (self.heads, -1)) for t in self.project_context(context))
        projected = self.project(x)
        q, k, v = self.heads_of(projected)
        q, k = torch.cat([self.norm_added_q(aq), q], dim=1), torch.cat([self.norm_added_k(ak), k], dim=1)
        count = context.shape[1]
        joint = self.attend(q, k, torch.cat([av, v], dim=1), rotary, count)
        context = context if self.to_add_out is None else self.to_add_out(joint[:, :count])
        return self.to_out(self.image_output(joint[:, count:], projected)), context

    def image_output(self, attended: Tensor, projected: Projected) -> Tensor:
        """Return the image's tokens `b n c` before the last layer; a view may add to them.

        Args:
            attended: from the joint attention, `b n c`.
            projected: the image's queries, keys and values, `b n c` each, not normed.
        """
        return attended


def _norm(channels: int, eps: float | None) -> nn.Module:
    return nn.Identity() if eps is None else nn.RMSNorm(channels, eps=eps)


def rotary_table(ids: Tensor, channels: tuple[int, ...], theta: float = 10000.0) -> Tensor:
    """Make the rotations for tokens at positions `n axes`, where axis i rotates `channels[i]` channels of each head.

    Su et al. 2021, equation 34, an axis at a time. The table is `2 n 1 (d / 2) 2` in float32: for each pair of
    channels, the two columns of its rotation matrix. It depends on no step: make it once a shape.
    """
    exact = torch.float32 if ids.device.type in ("mps", "npu") else torch.float64
    angles: list[Tensor] = []
    for axis, count in enumerate(channels):
        frequencies = theta ** (-torch.arange(0, count, 2, dtype=exact, device=ids.device) / count)
        angles.append(ids[:, axis, None].to(exact) * frequencies)
    cos, sin = (wave(torch.cat(angles, dim=-1)).float() for wave in (torch.cos, torch.sin))
    columns = torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)  # n (d / 2) 2
    return torch.stack(columns).unsqueeze(2)


def apply_rotary(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels of queries or keys `b n heads d` by its token's position."""
    first, second = rotary.unbind(0)
    pairs = x.unflatten(-1, (-1, 2))
    return torch.addcmul(pairs[..., :1] * first, pairs[..., 1:], second).flatten(-2).to(x.dtype)
