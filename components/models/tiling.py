"""Autoencoders on large pictures: tile by tile, and picture by picture, so that memory does not grow with them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from .autoencoder import Autoencoder
from .autoencoder_kl import AutoencoderKL
from .vae import DiagonalGaussian

OVERLAP = 0.25
"""The part of a tile's side that it shares with its neighbour. Published."""

Run = Callable[[Tensor], Tensor]


def tiled(run: Run, side: int, side_out: int) -> Run:
    """A function of pictures `b c h w` that runs on square tiles of `side`, which become tiles of `side_out`.

    Neighbours share a quarter of their side, over which one fades linearly into the other. So each number lies between
    what the tiles that cover it say, and where they differ by d, neighbouring numbers differ by no more than d over
    that length (twice in corners, where fades multiply) beyond what they do in a tile: there is no seam. What a tile
    says is not what the whole picture would, since a model's norms and attention see the tile alone. A picture that
    is no larger than a tile is run as it is.
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
                if above:  # as published: the finished tile above first, then the finished one at the left
                    tile = _faded(above[len(tiles)], tile, blend, dim=2)
                if tiles:
                    tile = _faded(tiles[-1], tile, blend, dim=3)
                tiles.append(tile)
            rows.append(torch.cat([tile[:, :, :keep, :keep] for tile in tiles], 3))
            above = tiles
        return torch.cat(rows, 2)

    return on_tiles


def _faded(before: Tensor, tile: Tensor, blend: int, dim: int) -> Tensor:
    """The tile, with the end of the one before fading out over its beginning."""
    length = min(before.shape[dim], tile.shape[dim], blend)
    share = torch.arange(length, device=tile.device, dtype=tile.dtype) / length
    share = share.view(-1, *[1] * (3 - dim))
    first, rest = tile.split([length, tile.shape[dim] - length], dim)
    end = before.narrow(dim, before.shape[dim] - length, length)
    return torch.cat([end * (1 - share) + first * share, rest], dim)


def one_by_one(run: Run) -> Run:
    """The same function, which takes the pictures of a batch one after another."""

    def each(x: Tensor) -> Tensor:
        return torch.cat([run(picture) for picture in x.split(1)]) if len(x) > 1 else run(x)

    return each


def decode(vae: Autoencoder[Any], z: Tensor, tile: int | None, slicing: bool) -> Tensor:  # Any: whichever config
    """`vae.decode`, on tiles of so many pixels, and picture by picture where `slicing`."""
    run = vae.decode if tile is None else tiled(vae.decode, _latents(tile, vae.scale_factor), tile)
    return (one_by_one(run) if slicing else run)(z)


def encode(vae: AutoencoderKL, x: Tensor, tile: int | None, slicing: bool) -> DiagonalGaussian:
    """`vae.encode` likewise. What tiles fade into each other is the means and log-variances, as published."""
    if tile is None and not slicing:
        return vae.encode(x)
    run = vae.moments if tile is None else tiled(vae.moments, tile, _latents(tile, vae.scale_factor))
    return DiagonalGaussian.from_moments((one_by_one(run) if slicing else run)(x))


def _latents(tile: int, factor: int) -> int:
    """The side of a tile in latents. Its quarter must be whole, else tiles would not lie where they belong."""
    whole = 4 * factor
    if tile < whole or tile % whole:
        near = max(round(tile / whole), 1) * whole
        raise ConfigError(f"tile={tile}: this autoencoder takes tiles in multiples of {whole} pixels. Give {near}.")
    return tile // factor
