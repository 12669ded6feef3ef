"""IP-Adapters of Stable Diffusion 3 (InstantX)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model
from .config import Config, Layers, Width
from .embeddings import Sinusoid, TimestepEmbedding
from .image_attention import HeldTokens, ImageBranch, LayerImages, with_images
from .image_projectors import PerceiverAttention, feed_forward
from .image_scales import block_scales
from .ip_adapter_blocks import check_blocks, checked_features
from .sd3 import SD3Transformer2DModel
from .transformer_layers import JointAttention, Projected, modulate
from .views import Replacement


class SD3ImagePromptAdapterConfig(Config):
    """The sizes of the file's tensors.

    image_width: the width of the image encoder's tokens. hidden_dim: of the perceiver. time_dim: of the sinusoid of
    times. num_tokens: for one picture. width: of the transformer. attention_head_dim: of the transformer's heads.
    """

    image_width: Width = 1152
    hidden_dim: Width = 1280
    num_attention_heads: Width = 20
    depth: Layers = 4
    time_dim: Width = 320
    num_tokens: Width = 64
    width: Width = 2432
    attention_head_dim: Width = 64
    num_layers: Layers = 38

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield keys with numbers of heads that do not fit, each with the error."""
        if self.width % self.attention_head_dim:
            yield "attention_head_dim", f"needs to divide width {self.width}, got {self.attention_head_dim}."


class SD3ImagePromptAdapter(Model[SD3ImagePromptAdapterConfig]):
    """The picture's tokens at a time, and an attention to them in each block of SD 3 (InstantX).

    Parameter names are published.
    """

    config_class = SD3ImagePromptAdapterConfig
    reads: Literal["hidden_states"] = "hidden_states"
    negative: Literal["zero features"] = "zero features"
    reads_faces = False
    depends_on_time = True

    def build(self, config: SD3ImagePromptAdapterConfig) -> None:
        """Make the perceiver and the layers."""
        self.image_proj = TimedPerceiver(config)
        self.ip_adapter = nn.ModuleList(SD3ImageLayer(config) for _ in range(config.num_layers))

    def project(self, features: Tensor | None, faces: Tensor | None = None) -> Tensor:
        """Return an image encoder's tokens `b n c` unchanged, since their projection depends on the time.

        Raises:
            UnfitValue: tokens of another width.
        """
        return checked_features(self, features, self.config.image_width)

    def layers(self, tokens: Tensor, time: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the keys and values of each block in turn, `b m c`, for tokens `b n c` at a time from 0 to 1000."""
        assert time is not None
        read, emb = self.image_proj(tokens, time.to(tokens.device).expand(len(tokens)))
        return tuple(t for layer in self.ip_adapter for t in layer(read, emb))

    def replacements(self, model: nn.Module, branch: ImageBranch, held: HeldTokens) -> Mapping[str, Replacement]:
        """Return the joint attention of all blocks that attends to the tokens in `held` too.

        Raises:
            UnfitValue: another denoiser, or one with other blocks; other scales.
        """
        check_blocks(self, model, SD3Transformer2DModel, "num_layers", "width", "attention_head_dim")
        scales = block_scales(branch.scale, self.config.num_layers)
        return {
            f"transformer_blocks.{i}.attn": with_images(
                SD3LayerImages(held, 2 * i, scale, branch.mask, layer), SD3ImageAttention
            )
            for i, (scale, layer) in enumerate(zip(scales, self.ip_adapter, strict=True))
            if scale
        }


class TimedPerceiver(nn.Module):
    """Learned queries that read a picture's tokens (Jaegle et al. 2021), modulated by the time.

    The layout of its layers is that of Flamingo's resampler (Alayrac et al. 2022, appendix A.1.1).
    """

    def __init__(self, config: SD3ImagePromptAdapterConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.latents = nn.Parameter(torch.randn(1, config.num_tokens, hidden) / hidden**0.5)
        self.proj_in = nn.Linear(config.image_width, hidden)
        self.layers = nn.ModuleList(TimedPerceiverLayer(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(hidden, config.width)
        self.norm_out = nn.LayerNorm(config.width)
        self.waves = Sinusoid(config.time_dim, flip=True, shift=0)
        self.time_embedding = TimestepEmbedding(config.time_dim, hidden)

    def forward(self, features: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Map a picture's tokens `b n c` and times `b` to tokens `b m k` and the activated embedding of times `b h`."""
        emb = self.time_embedding(self.waves(times).to(features.dtype))
        x = self.proj_in(features) + emb[:, None]
        latents = self.latents.expand(len(x), -1, -1)
        emb = F.silu(emb)
        for layer in self.layers:
            latents = layer(x, latents, emb)
        return self.norm_out(self.proj_out(latents)), emb


class TimedPerceiverLayer(nn.ModuleList):
    """Attention, feed-forward, and the shifts and scales that a time gives to both. Published as a list."""

    def __init__(self, config: SD3ImagePromptAdapterConfig) -> None:
        hidden = config.hidden_dim
        modulation = nn.Sequential(nn.Identity(), nn.Linear(hidden, 4 * hidden))
        super().__init__([PerceiverAttention(hidden, config.num_attention_heads), feed_forward(hidden), modulation])

    def forward(self, x: Tensor, latents: Tensor, emb: Tensor) -> Tensor:
        """Map learned queries `b m c` that read `b n c`; `emb` `b c` is already activated."""
        attention, inner, modulation = self
        assert isinstance(attention, PerceiverAttention) and isinstance(inner, nn.Sequential)
        shift, scale, shift_ff, scale_ff = modulation(emb)[:, None].chunk(4, dim=-1)
        latents = latents + attention.attend(attention.norm1(x), attention.norm2(latents) * (1 + scale) + shift)
        return latents + inner[1:](inner[0](latents) * (1 + scale_ff) + shift_ff)


class SD3ImageLayer(nn.Module):
    """The keys and values of a picture's tokens for one block, and norms of that block's queries and keys."""

    def __init__(self, config: SD3ImagePromptAdapterConfig) -> None:
        super().__init__()
        width, head = config.width, config.attention_head_dim
        self.norm_ip = TimedNorm(config.hidden_dim, width)
        self.to_k_ip, self.to_v_ip = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.norm_q, self.norm_k, self.norm_ip_k = (nn.RMSNorm(head, eps=1e-6) for _ in range(3))

    def forward(self, tokens: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Map the picture's tokens `b m c` to normed keys and to values `b m c`; `emb` is of times, activated."""
        tokens = self.norm_ip(tokens, emb)
        k = self.to_k_ip(tokens).unflatten(-1, (-1, *self.norm_ip_k.normalized_shape))
        return self.norm_ip_k(k).flatten(-2), self.to_v_ip(tokens)


class TimedNorm(nn.Module):
    """A layer norm whose shift and scale are made from an embedding of the time."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map `b m width`; `emb` `b channels` is already activated."""
        shift, scale = self.linear(emb)[:, None].chunk(2, dim=-1)
        return modulate(x, shift, scale)


@dataclass(frozen=True, eq=False)
class SD3LayerImages(LayerImages):
    """See `LayerImages`. layer: that of the adapter."""

    layer: nn.Module

    def normed(self, name: str, x: Tensor) -> Tensor:
        """Apply a norm of the layer to `b n heads d`, on the device of `x`."""
        norm = self.layer.get_submodule(name)
        assert isinstance(norm, nn.RMSNorm)
        return F.rms_norm(x, x.shape[-1:], norm.weight.to(x), norm.eps)


class SD3ImageAttention(JointAttention):
    """Joint attention that also attends to the image and to image prompts, with other norms, before its last layer."""

    images: tuple[SD3LayerImages, ...]

    def image_output(self, attended: Tensor, projected: Projected) -> Tensor:
        """Add that attention to the image's tokens."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in projected)
        for image in self.images:
            own = image.normed("norm_k", k).transpose(1, 2), v.transpose(1, 2)
            added = image.added(image.normed("norm_q", q).transpose(1, 2), self.kernel, own)
            attended = attended + added.transpose(1, 2).flatten(2)
        return attended
