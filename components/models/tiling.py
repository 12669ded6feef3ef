"""Autoencoders on large images: tile by tile, and image by image, so that memory does not grow with them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .autoencoder import Autoencoder
from .vae import DiagonalGaussian

OVERLAP = 0.25
"""The fraction of a tile's side that its neighbour covers too, as published."""

Run = Callable[[Tensor], Tensor]


def tiled(run: Run, side: int, side_out: int) -> Run:
    """Make a function of images `b c h w` that runs on square tiles of `side`, whose results have `side_out`.

    Neighbours overlap by a quarter of their side, where one is blended linearly into the other. So each result lies
    between those of the tiles that cover it. Where these differ by d, the step between neighbouring pixels grows by at
    most d over the length of the overlap (twice that in corners, where two blends multiply): there is no seam. The
    result is not that of the whole image, since a model's norms and attention see one tile only. An image that is no
    larger than a tile is run whole.
    """
    step, blend = int(side * (1 - OVERLAP)), int(side_out * OVERLAP)
    keep = side_out - blend

    def on_tiles(x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height <= side and width <= side:
            return run(x)
        above: list[Tensor] = []
        rows: list[Tensor] = []
        for top in range(0, height, step):
            tiles: list[Tensor] = []
            for left in range(0, width, step):
                tile = run(x[:, :, top : top + side, left : left + side])
                if above:  # as published: blend with the finished tile above, then with the finished one at the left
                    tile = _blended(above[len(tiles)], tile, blend, dim=2)
                if tiles:
                    tile = _blended(tiles[-1], tile, blend, dim=3)
                tiles.append(tile)
            rows.append(torch.cat([tile[:, :, :keep, :keep] for tile in tiles], 3))
            above = tiles
        return torch.cat(rows, 2)

    return on_tiles


def _blended(before: Tensor, tile: Tensor, blend: int, dim: int) -> Tensor:
    """Blend the end of the tile before into the beginning of a tile, along `dim`."""
    length = min(before.shape[dim], tile.shape[dim], blend)
    share = torch.arange(length, device=tile.device, dtype=tile.dtype) / length
    share = share.view(-1, *[1] * (3 - dim))
    first, rest = tile.split([length, tile.shape[dim] - length], dim)
    end = before.narrow(dim, before.shape[dim] - length, length)
    return torch.cat([end * (1 - share) + first * share, rest], dim)


def one_by_one(run: Run) -> Run:
    """Make a function that runs on the images of a batch one after another."""

    def each(x: Tensor) -> Tensor:
        return torch.cat([run(image) for image in x.split(1)]) if len(x) > 1 else run(x)

    return each


def decode(vae: Autoencoder[Any], z: Tensor, tile: int | None, slicing: bool) -> Tensor:  # Any: whichever config
    """Run `vae.decode` on latents `b c h w`.

    Args:
        tile: the side of a tile in pixels; None decodes whole images.
        slicing: whether to decode one image of the batch at a time.

    Raises:
        ConfigError: a tile whose side does not fit the autoencoder.
    """
    run = vae.decode if tile is None else tiled(vae.decode, _tile_in_latents(tile, vae.scale_factor), tile)
    return (one_by_one(run) if slicing else run)(z)


def encode(
    vae: Autoencoder[Any],  # Any: whichever config
    x: Tensor,
    tile: int | None = None,
    slicing: bool = False,
) -> DiagonalGaussian:
    """Return the distribution of latents for pixels `b 3 h w`; see `decode`. As published, moments are blended."""
    run = vae.moments if tile is None else tiled(vae.moments, tile, _tile_in_latents(tile, vae.scale_factor))
    return vae.distribution((one_by_one(run) if slicing else run)(x))


def _tile_in_latents(tile: int, factor: int) -> int:
    """The side of a tile in latents. A quarter of it must be a whole number, which is the overlap."""
    multiple = 4 * factor
    if tile < multiple or tile % multiple:
        near = max(round(tile / multiple), 1) * multiple
        raise ConfigError(f"Needs a tile in multiples of {multiple} pixels, got {tile}. Pass tile={near}.")
    return tile // factor
