"""Residual blocks, and layers that halve or double the size."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .activations import Activation, activation


@dataclass(frozen=True)
class ResnetStyle:
    """The settings that all residual blocks of a model share. `time_channels` is None without a time embedding."""

    groups: int
    eps: float
    act: Activation
    time_channels: int | None = None
    time: Literal["default", "scale_shift"] = "default"
    dropout: float = 0.0
    divisor: float = 1.0


class ResnetBlock2D(nn.Module):
    """Norm, activation, convolution, twice, added to the input (He et al. 2016, Identity Mappings, figure 4e)."""

    def __init__(self, channels_in: int, channels_out: int, style: ResnetStyle) -> None:
        super().__init__()
        self.divisor = style.divisor
        self.norm1 = nn.GroupNorm(style.groups, channels_in, eps=style.eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = nn.GroupNorm(style.groups, channels_out, eps=style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nonlinearity = activation(style.act)
        same = channels_in == channels_out
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Map `b c h w`; `emb` is the time embedding `b e`, already activated."""
        h = self.conv1(self.norm_and_activate(self.norm1, x))
        h = self.conv2(self.dropout(self.activated(h, emb)))
        h = self.conv_shortcut(x) + h
        return h if self.divisor == 1.0 else h / self.divisor

    def norm_and_activate(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """Apply one of the norms and the activation. A view may compute both at once."""
        return self.nonlinearity(norm(x))

    def activated(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Apply the second norm, together with the time embedding in subclasses, and the activation."""
        return self.norm_and_activate(self.norm2, h)


class TimeResnetBlock2D(ResnetBlock2D):
    """A residual block that adds the time embedding before the second norm (Ho et al. 2020, appendix B)."""

    def __init__(self, channels_in: int, channels_out: int, style: ResnetStyle, time_channels: int) -> None:
        super().__init__(channels_in, channels_out, style)
        self.time_emb_proj = nn.Linear(time_channels, channels_out)

    def activated(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Add the time embedding, then apply the second norm and the activation."""
        return self.norm_and_activate(self.norm2, h + self.time_emb_proj(emb)[:, :, None, None])


class ScaleShiftResnetBlock2D(ResnetBlock2D):
    """A residual block that scales and shifts by the time embedding after the second norm (Nichol & Dhariwal 2021)."""

    def __init__(self, channels_in: int, channels_out: int, style: ResnetStyle, time_channels: int) -> None:
        super().__init__(channels_in, channels_out, style)
        self.time_emb_proj = nn.Linear(time_channels, channels_out * 2)

    def activated(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """Apply the second norm, then scale, shift and the activation."""
        scale, shift = self.time_emb_proj(emb)[:, :, None, None].chunk(2, dim=1)
        return self.nonlinearity(self.norm2(h) * (1 + scale) + shift)


def resnet(channels_in: int, channels_out: int, style: ResnetStyle) -> ResnetBlock2D:
    """Make a residual block of that style."""
    if style.time_channels is None:
        return ResnetBlock2D(channels_in, channels_out, style)
    kind = {"default": TimeResnetBlock2D, "scale_shift": ScaleShiftResnetBlock2D}[style.time]
    return kind(channels_in, channels_out, style, style.time_channels)


class Downsample2D(nn.Module):
    """Halves the size by a convolution with stride 2. `padding=0` pads right and bottom only, as in autoencoders."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.pads_one_side = padding == 0
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w` to `b c (h / 2) (w / 2)`."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pads_one_side else x)


class Upsample2D(nn.Module):
    """Doubles the size, or resizes to `size`, by the nearest pixel, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Map `b c h w`."""
        size = size or (x.shape[2] * 2, x.shape[3] * 2)
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
