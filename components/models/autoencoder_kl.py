"""The autoencoder of Stable Diffusion and of most models after it."""

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from .activations import Activation
from .autoencoder import Autoencoder
from .config import Config, Layers, Rows, Scale, Width, per_level
from .resnet import ResnetStyle
from .vae import Decoder, DiagonalGaussian, Encoder


class AutoencoderKLConfig(Config):
    """The published keys. `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` set the latent space."""

    in_channels: Width = 3
    out_channels: Width = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = Field(
        default=("DownEncoderBlock2D",), description="Blocks with attention belong to older autoencoders."
    )
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = Field(
        default=("UpDecoderBlock2D",), description="Blocks with attention belong to older autoencoders."
    )
    block_out_channels: tuple[Width, ...] = (64,)
    layers_per_block: Layers = 1
    act_fn: Activation = "silu"
    latent_channels: Width = 4
    norm_num_groups: Width = 32
    sample_size: Rows | tuple[Rows, Rows] = 32
    scaling_factor: Scale = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[Scale, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the numbers of levels, groups and latent channels."""
        for key in ("up_block_types", "block_out_channels"):
            yield from per_level(key, getattr(self, key), len(self.down_block_types))
        for channels in dict.fromkeys(self.block_out_channels):
            if channels % self.norm_num_groups:
                yield "norm_num_groups", f"needs to divide {channels} channels, got {self.norm_num_groups}."
        for key in ("latents_mean", "latents_std"):
            values = getattr(self, key)
            if values is not None and len(values) != self.latent_channels:
                yield key, f"needs one number for each of {self.latent_channels} latent channels, got {len(values)}."
        if (self.latents_mean is None) != (self.latents_std is None):
            yield "latents_mean", "needs latents_std, and the other way round. Set both or none."


class AutoencoderKL(Autoencoder[AutoencoderKLConfig]):
    """A variational autoencoder: usually 8 x 8 pixels become one latent pixel (Rombach et al. 2022, section 3.1).

    Parameter names and config keys are published. Blocks with attention in the levels, of older autoencoders, are not
    supported.
    """

    config_class = AutoencoderKLConfig
    takes_backend = True

    def build(self, config: AutoencoderKLConfig) -> None:
        """Make the encoder and the decoder."""
        style = ResnetStyle(groups=config.norm_num_groups, eps=1e-6, act=config.act_fn)
        channels, layers, attends = config.block_out_channels, config.layers_per_block, config.mid_block_add_attention
        latent = config.latent_channels
        self.encoder = Encoder(config.in_channels, latent * 2, channels, layers, style, attends)
        self.decoder = Decoder(latent, config.out_channels, channels, layers, style, attends)
        self.quant_conv = nn.Conv2d(latent * 2, latent * 2, 1) if config.use_quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.use_post_quant_conv else nn.Identity()

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.latent_channels

    @property
    def scale_factor(self) -> int:
        """Pixels along one side of a latent pixel: each level but the last halves the size."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Return the distribution of latents for pixels `b 3 h w` in [-1, 1], h and w in multiples of scale_factor."""
        return self.distribution(self.moments(x))

    def moments(self, x: Tensor) -> Tensor:
        """Return means and log-variances `b (2 c) (h / s) (w / s)` for pixels as `encode` takes them."""
        return self.quant_conv(self.encoder(x))

    def distribution(self, moments: Tensor) -> DiagonalGaussian:
        """Return the distribution of latents in the model's own space."""
        return DiagonalGaussian.from_moments(moments)

    def decode(self, z: Tensor) -> Tensor:
        """Return pixels `b 3 (h s) (w s)`, about in [-1, 1], for latents `b c h w` in the model's own space."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> Tensor:
        """Encode pixels, and decode the most likely latents."""
        return self.decode(self.encode(x).mode())

    def unscale(self, latents: Tensor) -> Tensor:
        """Convert a pipeline's latents `b c h w` into the input of `decode`."""
        z = latents / self.config.scaling_factor
        if self.config.latents_mean is not None and self.config.latents_std is not None:
            return z * _channels(self.config.latents_std, z) + _channels(self.config.latents_mean, z)
        return z + (self.config.shift_factor or 0.0)

    def scale(self, z: Tensor) -> Tensor:
        """Convert latents `b c h w` of `encode` into a pipeline's latents."""
        factor = self.config.scaling_factor
        if self.config.latents_mean is not None and self.config.latents_std is not None:
            return (z - _channels(self.config.latents_mean, z)) * factor / _channels(self.config.latents_std, z)
        return (z - (self.config.shift_factor or 0.0)) * factor

    @classmethod
    def published_name(cls, name: str) -> str | None:
        """Rename the layers of attention in files from before diffusers 0.15."""
        return _OLD_ATTENTION.sub(lambda found: f"{found[1]}.{_NEW_NAMES[found[2]]}.", name)


_NEW_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(r"(mid_block\.attentions\.\d+)\.(query|key|value|proj_attn)\.")


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return like.new_tensor(values)[:, None, None]  # c 1 1
