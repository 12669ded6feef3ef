"""The autoencoder of Stable Diffusion and most models after it."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from .activations import Activation
from .autoencoder import Autoencoder
from .config import Config, per_level
from .resnet import ResnetStyle
from .vae import Decoder, DiagonalGaussian, Encoder


class AutoencoderKLConfig(Config):
    """Keys and defaults as published."""

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = Field(
        default=("DownEncoderBlock2D",), description="Blocks with attention belong to older autoencoders."
    )
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = Field(
        default=("UpDecoderBlock2D",), description="Blocks with attention belong to older autoencoders."
    )
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: Activation = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int | tuple[int, int] = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        for key in ("up_block_types", "block_out_channels"):
            yield from per_level(key, getattr(self, key), len(self.down_block_types))
        for channels in dict.fromkeys(self.block_out_channels):
            if channels % self.norm_num_groups:
                yield "norm_num_groups", f"{self.norm_num_groups} groups do not divide {channels} channels."
        for key in ("latents_mean", "latents_std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.latent_channels:
                yield key, f"has {len(values)} entries, but there are {self.latent_channels} latent channels."
        if (self.latents_mean is None) != (self.latents_std is None):
            yield "latents_mean", "and latents_std come together or not at all."


class AutoencoderKL(Autoencoder[AutoencoderKLConfig]):
    """A variational autoencoder (Rombach et al. 2022, section 3.1): 8 pixels a side become one latent pixel."""

    config_class = AutoencoderKLConfig

    def build(self, config: AutoencoderKLConfig) -> None:
        style = ResnetStyle(groups=config.norm_num_groups, eps=1e-6, act=config.act_fn)
        channels, layers, attends = config.block_out_channels, config.layers_per_block, config.mid_block_add_attention
        latent = config.latent_channels
        self.encoder = Encoder(config.in_channels, latent * 2, channels, layers, style, attends)
        self.decoder = Decoder(latent, config.out_channels, channels, layers, style, attends)
        self.quant_conv = nn.Conv2d(latent * 2, latent * 2, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.use_post_quant_conv else nn.Identity()

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def scale_factor(self) -> int:
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """The distribution of latents for pixels `b 3 h w` in [-1, 1], h and w in multiples of scale_factor."""
        return DiagonalGaussian.from_moments(self.moments(x))

    def moments(self, x: Tensor) -> Tensor:
        """What `encode` reads its distribution from: means and log-variances along the channels."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> Tensor:
        """Pixels and back by the most likely latents."""
        return self.decode(self.encode(x).mode())

    def unscale(self, latents: Tensor) -> Tensor:
        z = latents / self.config.scaling_factor
        if self.config.latents_mean is not None and self.config.latents_std is not None:
            return z * _channels(self.config.latents_std, z) + _channels(self.config.latents_mean, z)
        return z + (self.config.shift_factor or 0.0)

    def scale(self, z: Tensor) -> Tensor:
        factor = self.config.scaling_factor
        if self.config.latents_mean is not None and self.config.latents_std is not None:
            return (z - _channels(self.config.latents_mean, z)) * factor / _channels(self.config.latents_std, z)
        return (z - (self.config.shift_factor or 0.0)) * factor

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Files from before diffusers 0.15 call the parts of attention otherwise."""
        return _OLD_ATTENTION.sub(lambda found: f"{found[1]}.{_TODAY[found[2]]}.", name)


_TODAY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.")


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]  # c 1 1
