"""Latents as tokens: a square of latents each, with a position embedding."""

import math

import torch
from torch import Tensor, nn

from ...graph.errors import UnfitValue


class PatchEmbed(nn.Module):
    """Turns squares of `patch` x `patch` latents into tokens (Dosovitskiy et al. 2021, section 3.1).

    positions: the side of the square map of position embeddings, in tokens. The middle of the map is used for smaller
    images (Esser et al. 2024, section 5.3.2), and files hold it. None adds no positions. side: tokens a side of the
    images that training began with; positions are counted in these.
    """

    def __init__(self, channels_in: int, channels: int, patch: int, *, positions: int | None, side: int = 1) -> None:
        super().__init__()
        self.patch, self.positions = patch, positions
        self.proj = nn.Conv2d(channels_in, channels, patch, stride=patch)
        if positions is not None:
            empty = torch.empty(1, positions * positions, channels)
            waves = empty if empty.is_meta else sincos_positions(channels, (positions, positions), side)[None]
            self.register_buffer("pos_embed", waves)

    def forward(self, latents: Tensor) -> Tensor:
        """Map `b c h w` to `b n channels`.

        Raises:
            UnfitValue: a size that is not a multiple of `patch`, or larger than the map of positions.
        """
        height, width = latents.shape[2:]
        if height % self.patch or width % self.patch:
            raise UnfitValue(f"Needs latents with sides in multiples of {self.patch}, got {height}x{width}.")
        x = self.proj(latents).flatten(2).transpose(1, 2)
        return x if self.positions is None else x + self._cut(height // self.patch, width // self.patch)

    def _cut(self, height: int, width: int) -> Tensor:
        assert self.positions is not None
        if height > self.positions or width > self.positions:
            most = self.positions * self.patch
            raise UnfitValue(
                f"Needs latents of at most {most}x{most} (pos_embed_max_size), got {height * self.patch}x"
                f"{width * self.patch}. Make a smaller image."
            )
        waves = self.get_buffer("pos_embed").unflatten(1, (self.positions, self.positions))
        top, left = (self.positions - height) // 2, (self.positions - width) // 2
        return waves[:, top : top + height, left : left + width].flatten(1, 2)


def sincos_positions(
    channels: int, size: tuple[int, int], side: int, *, scale: float = 1.0, device: torch.device | None = None
) -> Tensor:
    """Make sinusoids for a map of `size` (rows, columns), `(rows columns) channels`: half for columns, half for rows.

    Vaswani et al. 2017, section 3.5, an axis at a time. Positions are counted as if the map had `side` tokens a side,
    and divided by `scale`.
    """
    frequencies = torch.arange(channels // 4, dtype=torch.float64, device="cpu") * (-math.log(10000) / (channels // 4))
    frequencies = frequencies.exp()
    rows, columns = (torch.arange(n, dtype=torch.float64, device="cpu") * (side / n / scale) for n in size)
    waves: list[Tensor] = []
    for positions in (columns[None, :].expand(size), rows[:, None].expand(size)):
        angles = positions.reshape(-1, 1) * frequencies
        waves += [angles.sin(), angles.cos()]
    return torch.cat(waves, dim=1).float().to(device or "cpu")


def unpatchify(x: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """Turn tokens `b (rows columns) (patch patch c)` into latents `b c h w`; `size` is (rows, columns) in tokens."""
    x = x.unflatten(2, (patch, patch, -1)).unflatten(1, size)  # b rows columns p q c
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
