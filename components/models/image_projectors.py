"""Projectors from features of an image to tokens of a denoiser, with the parameter names of IP-Adapter's files."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HEAD = 64
"""The width of one head of a perceiver's attention."""


class LinearProjector(nn.Module):
    """One layer and a norm: IP-Adapter."""

    def __init__(self, width: int, token_width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(width, tokens * token_width)
        self.norm = nn.LayerNorm(token_width)

    def forward(self, features: Tensor) -> Tensor:
        """Map (images, width) to (images, tokens, token_width)."""
        return self.norm(self.proj(features).unflatten(1, (self.tokens, -1)))


class FullProjector(nn.Module):
    """Two layers and a norm for each token of the image encoder: IP-Adapter Full Face."""

    def __init__(self, width: int, inner: int, token_width: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, token_width), nn.LayerNorm(token_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (images, tokens, width) to (images, tokens, token_width)."""
        return self.proj(features)


class FaceProjector(nn.Module):
    """Two layers and a norm: FaceID, and FaceID Portrait."""

    def __init__(self, width: int, inner: int, token_width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, tokens * token_width))
        self.norm = nn.LayerNorm(token_width)

    def forward(self, faces: Tensor) -> Tensor:
        """Map (images, width) to (images, tokens, token_width)."""
        return self.norm(self.proj(faces).unflatten(1, (self.tokens, -1)))


class Resampler(nn.Module):
    """Tokens that attend to features and to each other, layer by layer (Alayrac et al. 2022, section 3.1.1)."""

    def __init__(self, width: int, inner: int, token_width: int, *, layers: int, heads: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, inner)
        self.proj_out = nn.Linear(inner, token_width)
        self.norm_out = nn.LayerNorm(token_width)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(inner, heads), feed_forward(inner)]) for _ in range(layers)
        )

    def resample(self, latents: Tensor, features: Tensor) -> Tensor:
        """Map latents (images, tokens, inner) and features (images, n, width) to (images, tokens, token_width)."""
        features = self.proj_in(features)
        for layer in self.layers:
            attention, inner = layer.children()
            latents = attention(features, latents) + latents
            latents = inner(latents) + latents
        return self.norm_out(self.proj_out(latents))


class Perceiver(Resampler):
    """A resampler with learned latents: IP-Adapter Plus, and Plus Face."""

    def __init__(self, width: int, inner: int, token_width: int, *, layers: int, heads: int, tokens: int) -> None:
        super().__init__(width, inner, token_width, layers=layers, heads=heads)
        self.latents = nn.Parameter(torch.randn(1, tokens, inner) / inner**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Map (images, n, width) to (images, tokens, token_width)."""
        return self.resample(self.latents.expand(len(features), -1, -1), features)


class FacePerceiver(nn.Module):
    """A resampler whose latents are a projected face embedding: FaceID Plus. With `shortcut`, v2, they are added."""

    def __init__(
        self, widths: tuple[int, int, int, int], *, tokens: int, layers: int, heads: int, shortcut: bool
    ) -> None:
        """`widths`: of a face, between the layers of its projector, of the image features, and of the tokens."""
        super().__init__()
        face, inner, image, token_width = widths
        self.tokens, self.shortcut = tokens, shortcut
        self.proj = nn.Sequential(nn.Linear(face, inner), nn.GELU(), nn.Linear(inner, tokens * token_width))
        self.norm = nn.LayerNorm(token_width)
        self.perceiver_resampler = Resampler(image, token_width, token_width, layers=layers, heads=heads)

    def forward(self, features: Tensor, faces: Tensor) -> Tensor:
        """Map features (images, n, width) and faces (images, width) to (images, tokens, token_width)."""
        latents = self.norm(self.proj(faces).unflatten(1, (self.tokens, -1)))
        found = self.perceiver_resampler.resample(latents, features)
        return latents + found if self.shortcut else found


class PerceiverAttention(nn.Module):
    """Attention of latents to features and to themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * _HEAD, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * _HEAD, bias=False)
        self.to_out = nn.Linear(heads * _HEAD, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """Map features and latents `b n c` to the change of the latents."""
        return self.attend(self.norm1(features), self.norm2(latents))

    def attend(self, features: Tensor, latents: Tensor) -> Tensor:
        """The same for features and latents that are normed."""
        k, v = self.to_kv(torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(latents), k, v))
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def feed_forward(width: int) -> nn.Sequential:
    """A norm and two layers with four times the width between them, published as `1` and `3`."""
    inner = 4 * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )
