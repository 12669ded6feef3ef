"""What diffusion transformers are made of: attention of one and of two streams, adaptive norms, rotary positions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Mixing


class AdaptiveNorm(nn.Module):
    """A layer norm whose shift, scale and gates come from a vector of conditions (Peebles & Xie 2023, section 3.2).

    `parts` is how many vectors it makes: a shift and a scale, which it applies, and what it hands on.
    """

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(channels, parts * channels)

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Maps `b n c`; `emb` `b c` is activated already, once for all layers. Gives the other parts as `b 1 c`."""
        shift, scale, *rest = self.linear(emb)[:, None].chunk(self.parts, dim=-1)
        return modulated(x, shift, scale), tuple(rest)


class AdaptiveNormOut(nn.Module):
    """The last norm of a diffusion transformer, which is published with its scale before its shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.linear(emb)[:, None].chunk(2, dim=-1)
        return modulated(x, shift, scale)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`b n c` normed to mean 0 and variance 1, then scaled by 1 + `scale` and shifted, both `b 1 c`."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def gated(x: Tensor, gate: Tensor, added: Tensor) -> Tensor:
    """x + gate * added."""
    return torch.addcmul(x, gate, added)


class GELULayer(nn.Module):
    """A linear layer and the tanh form of GELU (Hendrycks & Gimpel 2016, section 2)."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class GELUFeedForward(nn.Module):
    """Two layers, four times as wide in between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels * 4
        self.net = nn.Sequential(GELULayer(channels, inner), nn.Identity(), nn.Linear(inner, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Heads(Mixing):
    """Queries, keys and values in heads, the first two normed (Dehghani et al. 2023, section 2.1), with rotary places.

    eps: of the norms; None is no norms.
    """

    def __init__(self, channels: int, heads: int, eps: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.norm_q, self.norm_k = (_norm(channels // heads, eps) for _ in range(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `b n c`, each like it."""
        return self.to_q(x), self.to_k(x), self.to_v(x)

    def read(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as `b n heads d`. Tokens from `start` on are the image's."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.project(x))
        return self.norm_q(self.ask(q.transpose(1, 2), start).transpose(1, 2)), self.norm_k(k), v

    def look(self, q: Tensor, k: Tensor, v: Tensor, rotary: Tensor | None) -> Tensor:
        """What each token sees, `b n c`, of queries, keys and values `b n heads d`."""
        if rotary is not None:
            q, k = turned(q, rotary), turned(k, rotary)
        return self.mix(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), None).transpose(1, 2).flatten(2)


class SelfAttention(Heads):
    """Tokens that look at each other. out: whether a linear layer comes last."""

    def __init__(self, channels: int, heads: int, *, eps: float | None = 1e-6, out: bool = True) -> None:
        super().__init__(channels, heads, eps)
        self.to_out = nn.Sequential(nn.Linear(channels, channels)) if out else nn.Identity()

    def forward(self, x: Tensor, rotary: Tensor | None = None, start: int = 0) -> Tensor:
        """Maps `b n c`; `rotary` from `rotary_table`. Tokens from `start` on are the image's."""
        return self.to_out(self.look(*self.read(x, start), rotary))


class JointAttention(Heads):
    """Two streams of tokens with weights of their own that all look at each other (Esser et al. 2024, section 4).

    context_out: whether the second stream goes on after this.
    """

    streams = 2

    def __init__(self, channels: int, heads: int, *, eps: float | None = 1e-6, context_out: bool = True) -> None:
        super().__init__(channels, heads, eps)
        self.to_out = nn.Sequential(nn.Linear(channels, channels))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.norm_added_q, self.norm_added_k = (_norm(channels // heads, eps) for _ in range(2))
        self.to_add_out = nn.Linear(channels, channels) if context_out else None

    def project_context(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the second stream `b m c`, each like it."""
        return self.add_q_proj(x), self.add_k_proj(x), self.add_v_proj(x)

    def forward(self, x: Tensor, context: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Maps the image's tokens `b n c` and the prompt's `b m c`. The prompt's come first in `rotary`.

        Where the second stream ends here, it comes back as it is.
        """
        aq, ak, av = (t.unflatten(-1, (self.heads, -1)) for t in self.project_context(context))
        q, k, v = self.read(x)
        q, k = torch.cat([self.norm_added_q(aq), q], dim=1), torch.cat([self.norm_added_k(ak), k], dim=1)
        seen = self.look(q, k, torch.cat([av, v], dim=1), rotary)
        count = context.shape[1]
        context = context if self.to_add_out is None else self.to_add_out(seen[:, :count])
        return self.to_out(seen[:, count:]), context


def _norm(channels: int, eps: float | None) -> nn.Module:
    return nn.Identity() if eps is None else nn.RMSNorm(channels, eps=eps)


def rotary_table(ids: Tensor, channels: tuple[int, ...], theta: float = 10000.0) -> Tensor:
    """The rotations for tokens at places `n axes`, where axis i turns `channels[i]` channels of each head.

    Su et al. 2021, equation 34, an axis at a time. Gives `2 n 1 (d / 2) 2` in float32: for each pair of channels, the
    two columns of its rotation matrix. Made once a shape; it depends on no step.
    """
    exact = torch.float32 if ids.device.type in ("mps", "npu") else torch.float64
    angles: list[Tensor] = []
    for axis, count in enumerate(channels):
        falling = theta ** (-torch.arange(0, count, 2, dtype=exact, device=ids.device) / count)
        angles.append(ids[:, axis, None].to(exact) * falling)
    cos, sin = (turn(torch.cat(angles, dim=-1)).float() for turn in (torch.cos, torch.sin))
    columns = torch.stack([cos, sin], dim=-1), torch.stack([-sin, cos], dim=-1)  # n (d / 2) 2
    return torch.stack(columns).unsqueeze(2)


def turned(x: Tensor, rotary: Tensor) -> Tensor:
    """Queries or keys `b n heads d`, each pair of neighbouring channels turned by its token's place."""
    first, second = rotary.unbind(0)
    pairs = x.unflatten(-1, (-1, 2))
    return torch.addcmul(pairs[..., :1] * first, pairs[..., 1:], second).flatten(-2).to(x.dtype)
