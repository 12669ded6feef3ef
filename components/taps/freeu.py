"""FreeU: other weights of the backbone and the skips of a U-Net."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ..models.perturbable import PerturbableLayers
from ..models.unet_blocks import UpBlock
from ..models.views import combined_class, shallow_copy
from .change import Change, Chosen
from .place import Place


class FreeU(Change):
    """The first two up levels of a U-Net: stronger features of the backbone, weaker low frequencies of the skips.

    Si et al. 2023. b1, b2: multiply the first half of the backbone's channels in the first and the second level
    (equation 4). s1, s2: multiply the lowest frequencies of the skips there (equations 5 to 7). 1 changes nothing.
    version: 1 multiplies by b everywhere, as first published and as in diffusers; 2 by 1 + (b - 1) m, where the map m
    is the mean over the channels, scaled to 0 to 1 for each row. Published values (s1 0.9, s2 0.2): SD 1.4 and SDXL
    1.3 and 1.4, SD 1.5 1.5 and 1.6, SD 2.1 1.4 and 1.6.

    Raises:
        ConfigError: a tap with layers, or a model that is no U-Net.
    """

    per_pass: ClassVar[bool] = True

    b1: float = 1.3
    b2: float = 1.4
    s1: float = 0.9
    s2: float = 0.2
    version: Literal[1, 2] = 1

    def select(self, layers: PerturbableLayers, chosen: Chosen, model: str) -> Sequence[str]:
        """Return the first two up levels."""
        if not layers.up_levels:
            raise ConfigError(f"FreeU needs a U-Net, and {model} has no skips. Leave FreeU out.")
        if chosen != Chosen():
            raise ConfigError("FreeU changes the first two up levels, and no layers can be named. Leave layers out.")
        return layers.up_levels[:2]

    def replaced(self, layer: nn.Module, at: Place) -> nn.Module:
        """Return the level with the weights of its place."""
        factor, scale = ((self.b1, self.s1), (self.b2, self.s2))[at.index]
        twin = shallow_copy(layer, combined_class(FreeUpBlock, type(layer)))
        twin.__dict__.update(backbone=factor, skip=scale, by_structure=self.version == 2)
        return twin


class FreeUpBlock(UpBlock):
    """An up level with other weights of its two inputs."""

    backbone: float
    skip: float
    by_structure: bool

    def joined(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return `x` and a skip, reweighted, one behind the other."""
        first, rest = x.tensor_split([x.shape[1] // 2], dim=1)
        factor = structure_factor(x, self.backbone) if self.by_structure else self.backbone
        return super().joined(torch.cat([first * factor, rest], dim=1), scaled_low_frequencies(skip, self.skip))


def structure_factor(x: Tensor, factor: float) -> Tensor:
    """Compute 1 + (factor - 1) m, `b 1 h w`: m is the mean over the channels, scaled to 0 to 1 for each row."""
    mean = x.mean(1, keepdim=True)
    lowest, highest = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    return 1 + (factor - 1) * (mean - lowest) / (highest - lowest).clamp_min(torch.finfo(x.dtype).tiny)


def scaled_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """Multiply the lowest frequencies of feature maps `b c h w`: 0 and -1 along each side, as published."""
    spectrum = torch.fft.fftn(x.float(), dim=(2, 3))  # half precision has no transform of every size
    for rows in {0, -1 % x.shape[2]}:
        for columns in {0, -1 % x.shape[3]}:
            spectrum[:, :, rows, columns] *= scale
    return torch.fft.ifftn(spectrum, dim=(2, 3)).real.to(x.dtype)
