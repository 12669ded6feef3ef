"""The halves of `AutoencoderKL`, and the distribution between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .activations import activation
from .attention import Attention
from .resnet import Downsample2D, ResnetStyle, Upsample2D, resnet


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution for each latent number (Kingma and Welling 2013, appendix B): `mean` and `logvar`."""

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> "DiagonalGaussian":
        """From the encoder's output, means and log-variances along the channels. The bounds are the published ones."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @property
    def std(self) -> Tensor:
        return torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents. Noise is drawn where the generator lives, so a CPU seed gives the same on every device."""
        where = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=where, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def mode(self) -> Tensor:
        """The most likely latents."""
        return self.mean


class PixelAttention(Attention):
    """Attention with one head over the pixels of a feature map, added to it."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(channels, heads=1, context_channels=channels, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # b (h w) c
        mixed = super().forward(tokens, context, mask).transpose(1, 2).unflatten(2, x.shape[2:])
        # In this order the sum is laid out as `mixed` is, channels last, which is faster from here on: 20 % on a CPU.
        return mixed + x


class Middle(nn.Module):
    """Two residual blocks, with attention in between or not."""

    def __init__(self, channels: int, style: ResnetStyle, attends: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(channels, style.groups)] if attends else [])
        self.resnets = nn.ModuleList(resnet(channels, channels, style) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        return second(x)


class EncoderLevel(nn.Module):
    """Residual blocks, then half the size except at the end."""

    def __init__(self, channels_in: int, channels: int, layers: int, style: ResnetStyle, shrinks: bool) -> None:
        super().__init__()
        inputs = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList(resnet(n, channels, style) for n in inputs)
        self.downsamplers = nn.ModuleList([Downsample2D(channels, padding=0)] if shrinks else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for down in self.downsamplers:
            x = down(x)
        return x


class DecoderLevel(nn.Module):
    """Residual blocks, then twice the size except at the end."""

    def __init__(self, channels_in: int, channels: int, layers: int, style: ResnetStyle, grows: bool) -> None:
        super().__init__()
        inputs = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList(resnet(n, channels, style) for n in inputs)
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if grows else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for up in self.upsamplers:
            x = up(x)
        return x


class Encoder(nn.Module):
    """Pixels `b c h w` to moments, by halving the size between levels (Esser et al. 2021, table 7)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: Sequence[int],
        layers: int,
        style: ResnetStyle,
        attends: bool,
    ) -> None:
        super().__init__()
        inputs = [channels[0], *channels[:-1]]
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(channels_in, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            EncoderLevel(n, out, layers, style, shrinks=i < last)
            for i, (n, out) in enumerate(zip(inputs, channels, strict=True))
        )
        self.mid_block = Middle(channels[-1], style, attends)
        self.conv_norm_out = nn.GroupNorm(style.groups, channels[-1], eps=style.eps)
        self.conv_act = activation("silu")
        self.conv_out = nn.Conv2d(channels[-1], channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Latents `b c h w` to pixels, the encoder backwards with one more residual block on each level."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: Sequence[int],
        layers: int,
        style: ResnetStyle,
        attends: bool,
    ) -> None:
        super().__init__()
        outputs = list(reversed(channels))
        inputs = [outputs[0], *outputs[:-1]]
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(channels_in, outputs[0], 3, padding=1)
        self.mid_block = Middle(outputs[0], style, attends)
        self.up_blocks = nn.ModuleList(
            DecoderLevel(n, out, layers + 1, style, grows=i < last)
            for i, (n, out) in enumerate(zip(inputs, outputs, strict=True))
        )
        self.conv_norm_out = nn.GroupNorm(style.groups, outputs[-1], eps=style.eps)
        self.conv_act = activation("silu")
        self.conv_out = nn.Conv2d(outputs[-1], channels_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))
