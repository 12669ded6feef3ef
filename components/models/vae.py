"""The encoder and the decoder of `AutoencoderKL`, and the distribution of latents."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .activations import activation
from .attention import Attention, KeysValues
from .resnet import Downsample2D, ResnetStyle, Upsample2D, resnet


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution of each number of latents `b c h w` (Kingma and Welling 2013, appendix B).

    logvar: the logarithms of the variances; None for an autoencoder without sampling, whose latents are the means.
    """

    mean: Tensor
    logvar: Tensor | None

    @classmethod
    def from_moments(cls, moments: Tensor) -> "DiagonalGaussian":
        """Split the encoder's output `b (2 c) h w` into means and log-variances, which are clamped as published."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    @property
    def std(self) -> Tensor:
        """The standard deviations."""
        return torch.zeros_like(self.mean) if self.logvar is None else torch.exp(0.5 * self.logvar)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents. Noise is drawn on the generator's device, so a CPU seed gives the same on every device."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + self.std * noise.to(self.mean.device)

    def mode(self) -> Tensor:
        """Return the most likely latents: the means."""
        return self.mean


class PixelAttention(Attention):
    """Attention over the pixels of a feature map, added to the map."""

    def __init__(self, channels: int, groups: int, heads: int = 1, eps: float = 1e-6) -> None:
        super().__init__(channels, heads=heads, context_channels=channels, bias=True)
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)

    def forward(self, x: Tensor, context: Tensor | KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """Map `b c h w`."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # b (h w) c
        attended = super().forward(tokens, context, mask).transpose(1, 2).unflatten(2, x.shape[2:])
        # In this order the sum has the memory format of `attended`, channels last: 20 % faster from here on, on a CPU.
        return attended + x


class Middle(nn.Module):
    """Two residual blocks, with attention between them if `attends`."""

    def __init__(self, channels: int, style: ResnetStyle, attends: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([PixelAttention(channels, style.groups)] if attends else [])
        self.resnets = nn.ModuleList(resnet(channels, channels, style) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w`."""
        first, second = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        return second(x)


def in_turn(x: Tensor, *layers: nn.Module) -> Tensor:
    """Apply the layers one after another."""
    for layer in layers:
        x = layer(x)
    return x


class EncoderLevel(nn.Module):
    """Residual blocks, then a layer that halves the size if `shrinks`."""

    def __init__(self, channels_in: int, channels: int, layers: int, style: ResnetStyle, shrinks: bool) -> None:
        super().__init__()
        inputs = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList(resnet(n, channels, style) for n in inputs)
        self.downsamplers = nn.ModuleList([Downsample2D(channels, padding=0)] if shrinks else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map `b channels_in h w` to `b channels h' w'`."""
        return in_turn(x, *self.resnets, *self.downsamplers)


class DecoderLevel(nn.Module):
    """Residual blocks, then a layer that doubles the size if `grows`."""

    def __init__(self, channels_in: int, channels: int, layers: int, style: ResnetStyle, grows: bool) -> None:
        super().__init__()
        inputs = [channels_in, *[channels] * (layers - 1)]
        self.resnets = nn.ModuleList(resnet(n, channels, style) for n in inputs)
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if grows else [])

    def forward(self, x: Tensor) -> Tensor:
        """Map `b channels_in h w` to `b channels h' w'`."""
        return in_turn(x, *self.resnets, *self.upsamplers)


class Encoder(nn.Module):
    """Maps pixels to moments, and halves the size between levels (Esser et al. 2021, table 7)."""

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
        """Map pixels `b c h w` to moments `b (2 c) (h / s) (w / s)`."""
        x = in_turn(x, self.conv_in, *self.down_blocks, self.mid_block)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class Decoder(nn.Module):
    """Maps latents to pixels: the encoder in reverse, with one more residual block in each level."""

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
        """Map latents `b c h w` to pixels `b 3 (s h) (s w)`."""
        x = in_turn(z, self.conv_in, self.mid_block, *self.up_blocks)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))
