"""TAESD: an autoencoder small enough to look at every step with."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from .activations import Activation, activation
from .autoencoder import Autoencoder
from .config import Config


class AutoencoderTinyConfig(Config):
    """Keys and defaults as published."""

    in_channels: int = 3
    out_channels: int = 3
    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    act_fn: Activation = "relu"
    upsample_fn: Literal["nearest", "nearest-exact", "bilinear", "bicubic"] = "nearest"
    latent_channels: int = 4
    upsampling_scaling_factor: int = 2
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_magnitude: float = 3
    latent_shift: float = 0.5
    force_upcast: bool = False
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    block_out_channels: tuple[int, ...] | None = None  # published files repeat the decoder's channels under this key

    def problems(self) -> Iterator[tuple[str, str]]:
        for half in ("encoder", "decoder"):
            channels, blocks = getattr(self, f"{half}_block_out_channels"), getattr(self, f"num_{half}_blocks")
            if len(channels) != len(blocks):
                yield f"num_{half}_blocks", f"has {len(blocks)} entries, but {half}_block_out_channels {len(channels)}."
            if len(set(channels)) > 1:
                yield f"{half}_block_out_channels", "differ, but nothing between two levels changes channels."


class AutoencoderTiny(Autoencoder[AutoencoderTinyConfig]):
    """A distilled autoencoder without attention or noise (TAESD, O. Boer Bohan 2023).

    Its latents are those of the pipeline: scaling_factor is 1 and shift_factor 0 as published.
    """

    config_class = AutoencoderTinyConfig

    def build(self, config: AutoencoderTinyConfig) -> None:
        self.encoder = TinyEncoder(config)
        self.decoder = TinyDecoder(config)

    def to_config(self) -> dict[str, object]:
        config = {**super().to_config(), "block_out_channels": list(self.config.decoder_block_out_channels)}
        return {key: config[key] for key in sorted(config)}

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def scale_factor(self) -> int:
        return self.config.upsampling_scaling_factor ** (len(self.config.num_decoder_blocks) - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Latents for pixels `b 3 h w` in [-1, 1]."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels and back. (The published class also rounds latents to bytes in between.)"""
        return self.decode(self.encode(x))

    def unscale(self, latents: Tensor) -> Tensor:
        return latents / self.config.scaling_factor + self.config.shift_factor

    def scale(self, z: Tensor) -> Tensor:
        return (z - self.config.shift_factor) * self.config.scaling_factor


class TinyBlock(nn.Module):
    """Three convolutions and the input added."""

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
        return torch.relu(self.conv(x) + x)


class TinyEncoder(nn.Module):
    """Pixels in [-1, 1] to latents."""

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
        return self.layers((x + 1) / 2)  # it was trained on [0, 1]


class TinyDecoder(nn.Module):
    """Latents to pixels in [-1, 1]."""

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
        return self.layers(torch.tanh(z / 3) * 3) * 2 - 1  # the bound of 3 is TAESD's own, whatever latent_magnitude


def _conv(channels_in: int, channels_out: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=stride, bias=bias)
