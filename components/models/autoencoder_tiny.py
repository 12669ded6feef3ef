"""TAESD: an autoencoder that is small enough to show every step of a run."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from .activations import Activation, activation
from .autoencoder import Autoencoder
from .config import Config, Layers, Scale, Width
from .vae import DiagonalGaussian


class AutoencoderTinyConfig(Config):
    """The published keys. `force_upcast`, `latent_magnitude` and `latent_shift` are kept, but not used."""

    in_channels: Width = 3
    out_channels: Width = 3
    encoder_block_out_channels: tuple[Width, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[Width, ...] = (64, 64, 64, 64)
    act_fn: Activation = "relu"
    upsample_fn: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] = "nearest"
    latent_channels: Width = 4
    upsampling_scaling_factor: Width = 2
    num_encoder_blocks: tuple[Layers, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[Layers, ...] = (3, 3, 3, 1)
    latent_magnitude: Scale = 3
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: Scale = 1.0
    shift_factor: float = 0.0
    block_out_channels: tuple[Width, ...] | None = None  # published files repeat the decoder's channels under this key

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the numbers of blocks and channels."""
        for half in ("encoder", "decoder"):
            channels, blocks = getattr(self, f"{half}_block_out_channels"), getattr(self, f"num_{half}_blocks")
            if len(channels) != len(blocks):
                yield (
                    f"num_{half}_blocks",
                    f"needs {len(channels)} entries like {half}_block_out_channels, got {len(blocks)}.",
                )
            if len(set(channels)) > 1:
                yield f"{half}_block_out_channels", f"needs equal numbers, got {channels}."


class AutoencoderTiny(Autoencoder[AutoencoderTinyConfig]):
    """A small distilled autoencoder without attention and without sampling (TAESD, O. Boer Bohan 2023).

    Its latents are those of the pipeline: `scaling_factor` is 1 and `shift_factor` 0, as published. Parameter names and
    config keys are published.
    """

    config_class = AutoencoderTinyConfig
    samples = False

    def build(self, config: AutoencoderTinyConfig) -> None:
        """Make the encoder and the decoder."""
        self.encoder = TinyEncoder(config)
        self.decoder = TinyDecoder(config)

    def to_config(self) -> dict[str, object]:
        """Return the config keys as JSON values, with the decoder's channels a second time, as published."""
        config = {**super().to_config(), "block_out_channels": list(self.config.decoder_block_out_channels)}
        return {key: config[key] for key in sorted(config)}

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.latent_channels

    @property
    def scale_factor(self) -> int:
        """Pixels along one side of a latent pixel."""
        return self.config.upsampling_scaling_factor ** (len(self.config.num_decoder_blocks) - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return latents `b c (h / s) (w / s)` for pixels `b 3 h w` in [-1, 1]."""
        return self.encoder(x)

    def moments(self, x: Tensor) -> Tensor:
        """Return the latents, as `encode`."""
        return self.encode(x)

    def distribution(self, moments: Tensor) -> DiagonalGaussian:
        """Return the latents as a distribution without spread, from which nothing is drawn."""
        return DiagonalGaussian(moments, None)

    def decode(self, z: Tensor) -> Tensor:
        """Return pixels `b 3 (h s) (w s)`, about in [-1, 1], for latents `b c h w`."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode pixels. The published class also rounds the latents to bytes."""
        return self.decode(self.encode(x))

    def unscale(self, latents: Tensor) -> Tensor:
        """Convert a pipeline's latents into the input of `decode`."""
        return latents / self.config.scaling_factor + self.config.shift_factor

    def scale(self, z: Tensor) -> Tensor:
        """Convert latents of `encode` into a pipeline's latents."""
        return (z - self.config.shift_factor) * self.config.scaling_factor


class TinyBlock(nn.Module):
    """Three convolutions, added to their input."""

    def __init__(self, channels: int, act: Activation) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels, channels),
            activation(act),
            _conv(channels, channels),
            activation(act),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w`."""
        return torch.relu(self.conv(x) + x)


class TinyEncoder(nn.Module):
    """Maps pixels in [-1, 1] to latents."""

    def __init__(self, config: AutoencoderTinyConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, (channels, blocks) in enumerate(
            zip(config.encoder_block_out_channels, config.num_encoder_blocks, strict=True)
        ):
            first = i == 0
            layers.append(
                _conv(config.in_channels, channels) if first else _conv(channels, channels, stride=2, bias=False)
            )
            layers += [TinyBlock(channels, config.act_fn) for _ in range(blocks)]
        layers.append(_conv(config.encoder_block_out_channels[-1], config.latent_channels))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map pixels `b 3 h w` to latents `b c (h / s) (w / s)`."""
        return self.layers((x + 1) / 2)  # it was trained on [0, 1]


class TinyDecoder(nn.Module):
    """Maps latents to pixels in [-1, 1]."""

    def __init__(self, config: AutoencoderTinyConfig) -> None:
        super().__init__()
        channels = config.decoder_block_out_channels
        layers: list[nn.Module] = [_conv(config.latent_channels, channels[0]), activation(config.act_fn)]
        for n, blocks in zip(channels[:-1], config.num_decoder_blocks[:-1], strict=True):
            layers += [TinyBlock(n, config.act_fn) for _ in range(blocks)]
            layers += [nn.Upsample(scale_factor=config.upsampling_scaling_factor, mode=config.upsample_fn)]
            layers += [_conv(n, n, bias=False)]
        layers += [TinyBlock(channels[-1], config.act_fn) for _ in range(config.num_decoder_blocks[-1])]
        layers.append(_conv(channels[-1], config.out_channels))
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents `b c h w` to pixels `b 3 (h s) (w s)`."""
        return self.layers(torch.tanh(z / 3) * 3) * 2 - 1  # the bound of 3 is TAESD's own, whatever latent_magnitude


def _conv(channels_in: int, channels_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride, bias=bias)
