"""Pixels to latents."""

from typing import NamedTuple

import torch

from ...components.models.autoencoder import upcast_vae
from ...components.models.autoencoder_kl import AutoencoderKL
from ...components.models.tiling import encode
from ...components.random import Random
from ...components.types import ImageLatents, Images, LatentMask, Mask, Rows, Steps
from ...graph import Block, component
from ...registry import counted


class Encoded(NamedTuple):
    image_latents: ImageLatents
    random: Random


class EncodeImage(Block):
    """Turn pixels into latents: a sample of what the autoencoder's encoder says, one row for each picture to make.

    One generator draws once an image, and its rows share that; with a generator for each row, each draws its own.
    `tile` and `slicing` keep the peak of memory low, as in `DecodeLatents`.
    """

    vae: AutoencoderKL = component()
    tile: int | None = None
    slicing: bool = False

    def __call__(self, pixels: Images, rows: Rows, random: Random) -> Encoded:
        if len(pixels) not in (1, rows.prompts, rows.total):
            came = f"{counted(len(pixels), 'image')} came for {counted(rows.prompts, 'prompt')}"
            raise ValueError(f"{came}. Give one for all, or one each.")
        vae = upcast_vae(self.vae)
        said = encode(vae, (pixels * 2 - 1).to(vae.device, vae.dtype), self.tile, self.slicing)
        mean, std = said.mean.float(), said.std.float()
        if not random.single:
            mean, std = (row_for_each(t, rows) for t in (mean, std))
        noise, random = random.draw(len(mean), mean.shape[1:])
        return Encoded(row_for_each(vae.scale(mean + std * noise.to(mean.device)), rows), random)


class EncodeStart(Block):
    """`EncodeImage` where a graph may begin in pure noise: then nothing is drawn, since nobody looks at the sample."""

    vae: AutoencoderKL = component()
    tile: int | None = None
    slicing: bool = False

    def __call__(self, pixels: Images, rows: Rows, random: Random, steps: Steps) -> Encoded:
        whole = EncodeImage(vae=self.vae, tile=self.tile, slicing=self.slicing)
        latents, after = whole(pixels, rows, random)
        return Encoded(latents, random if steps.begin == 0 else after)


def row_for_each(t: torch.Tensor, rows: Rows) -> torch.Tensor:
    """A row for each picture: pictures of one prompt lie beside each other."""
    if len(t) == rows.total:
        return t
    return t.expand(rows.prompts, *t.shape[1:]).repeat_interleave(rows.each, 0)


class Hidden(NamedTuple):
    hidden: Images


class HideMasked(Block):
    """Grey out what the mask will paint, as U-Nets trained to inpaint saw it."""

    def __call__(self, pixels: Images, mask: Mask) -> Hidden:
        return Hidden(torch.where(mask < 0.5, pixels, 0.5))


class Shrunk(NamedTuple):
    latent_mask: LatentMask


class ShrinkMask(Block):
    """Bring a mask to the size of the latents, a row for each picture."""

    def __call__(self, mask: Mask, image_latents: ImageLatents, rows: Rows) -> Shrunk:
        if len(mask) not in (1, rows.prompts, rows.total):
            came = f"{counted(len(mask), 'mask')} came for {counted(rows.prompts, 'prompt')}"
            raise ValueError(f"{came}. Give one for all, or one each.")
        return Shrunk(row_for_each(torch.nn.functional.interpolate(mask, size=image_latents.shape[2:]), rows))
