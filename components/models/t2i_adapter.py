"""T2I-Adapter: a small network that reads a control image once, and adds to a U-Net's features in every step."""

from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .base import Model
from .config import Config, Layers, Width


class T2IAdapterConfig(Config):
    """The published keys. `channels` are the widths of the U-Net's levels."""

    in_channels: Width = 3
    channels: tuple[Width, ...] = (320, 640, 1280, 1280)
    num_res_blocks: Layers = 2
    downscale_factor: Width = 8
    adapter_type: Literal["full_adapter", "full_adapter_xl", "light_adapter"] = "full_adapter"

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with the widths."""
        if self.adapter_type == "light_adapter" and any(n % 4 for n in self.channels):
            yield "channels", f"needs multiples of 4 for a light adapter, got {self.channels}."


class T2IAdapter(Model[T2IAdapterConfig]):
    """Computes features of a control image for each level of a U-Net (Mou et al. 2023, section 3.2).

    Parameter names and config keys are published. `adapter_type` is "full_adapter_xl" for SDXL.
    """

    config_class = T2IAdapterConfig

    def build(self, config: T2IAdapterConfig) -> None:
        """Make the layers."""
        self.adapter = AdapterLevels(config)

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the rows and columns of the control image for latents of that size."""
        factor = self.config.downscale_factor
        if self.config.adapter_type == "full_adapter_xl":  # its first features are added to a level of half the size
            return -(-height // 2) * factor, -(-width // 2) * factor
        return height * factor, width * factor

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute features `b channels[i] h w`, the largest first, of an image `b c rows columns` from 0 to 1.

        Raises:
            UnfitValue: another number of channels, or sides that `downscale_factor` does not divide.
        """
        config = self.config
        if x.shape[1] != config.in_channels or any(side % config.downscale_factor for side in x.shape[2:]):
            raise UnfitValue(
                f"Needs an image of {config.in_channels} channels with sides in multiples of "
                f"{config.downscale_factor}, got {' x '.join(map(str, x.shape[1:]))}."
            )
        return self.adapter(x)


class AdapterLevels(nn.Module):
    """Squares of pixels as channels, then a block for each level."""

    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.factor = config.downscale_factor
        folded = config.in_channels * self.factor**2
        widths, layers = config.channels, config.num_res_blocks
        self.conv_in: nn.Module = nn.Identity()
        match config.adapter_type:
            case "light_adapter":
                inputs = [folded, *widths]
                outputs = [*widths, widths[-1]]
                halves = [False] + [True] * len(widths)
                blocks = [LightBlock(a, b, layers, halves=h) for a, b, h in zip(inputs, outputs, halves, strict=True)]
            case "full_adapter":
                self.conv_in = nn.Conv2d(folded, widths[0], 3, padding=1)
                inputs = [widths[0], *widths[:-1]]
                halves = [i > 0 for i in range(len(widths))]
                blocks = [FullBlock(a, b, layers, halves=h) for a, b, h in zip(inputs, widths, halves, strict=True)]
            case "full_adapter_xl":
                self.conv_in = nn.Conv2d(folded, widths[0], 3, padding=1)
                # As published, only the second and the third block change width, and only the third halves.
                inputs = [widths[i - 1] if i in (1, 2) else widths[i] for i in range(len(widths))]
                halves = [i == 2 for i in range(len(widths))]
                blocks = [FullBlock(a, b, layers, halves=h) for a, b, h in zip(inputs, widths, halves, strict=True)]
        self.body = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map an image to the features of each level."""
        x = self.conv_in(F.pixel_unshuffle(x, self.factor))
        features: list[Tensor] = []
        for block in self.body:
            x = block(x)
            features.append(x)
        return tuple(features)


class FullBlock(nn.Module):
    """Half the size if `halves`, then another width if it differs, then residual blocks."""

    def __init__(self, channels_in: int, channels: int, layers: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        same = channels_in == channels
        self.in_conv = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)
        self.resnets = nn.Sequential(*(Residual(channels, last=1) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w`."""
        return self.resnets(self.in_conv(half(x) if self.halves else x))


class LightBlock(nn.Module):
    """Half the size if `halves`, then residual blocks on a quarter of the width."""

    def __init__(self, channels_in: int, channels: int, layers: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        inner = channels // 4
        self.in_conv = nn.Conv2d(channels_in, inner, 1)
        self.resnets = nn.Sequential(*(Residual(inner, last=3) for _ in range(layers)))
        self.out_conv = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w`."""
        return self.out_conv(self.resnets(self.in_conv(half(x) if self.halves else x)))


class Residual(nn.Module):
    """Convolution, ReLU and a convolution with a kernel of size `last`, added to their input."""

    def __init__(self, channels: int, *, last: int) -> None:
        super().__init__()
        self.block1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.block2 = nn.Conv2d(channels, channels, last, padding=last // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `b c h w`."""
        return x + self.block2(F.relu(self.block1(x)))


def half(x: Tensor) -> Tensor:
    """Halve the size: means of 2 x 2 pixels. Odd sides are rounded up, as in U-Nets."""
    return F.avg_pool2d(x, 2, ceil_mode=True)
