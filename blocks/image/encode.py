"""Pixels to latents."""

from typing import Any, NamedTuple

import torch

from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.models.tiling import encode
from ...components.random import Random
from ...components.types import Count, ImageLatents, Images, LatentMask, Mask, Rows, Steps
from ...graph import Block, component
from ...graph.errors import UnfitValue
from ...registry import counted


class Encoded(NamedTuple):
    """Clean latents, a row for each picture to make."""

    image_latents: ImageLatents
    random: Random


class EncodeImage(Block):
    """Turn pixels into latents: a sample of the encoder's distribution, one row for each picture to make.

    With one generator, noise is drawn once for each image, and the rows of an image share it. With a generator for each
    row, each row has its own; nothing is drawn for an autoencoder without sampling (`AutoencoderTiny`). draws: off, the
    latents are the most likely ones, and no noise is drawn. tile, slicing: as in `DecodeLatents`.

    Raises:
        UnfitValue: neither one image, nor one for each prompt or for each picture to make.
    """

    vae: Autoencoder[Any] = component(own="encoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False
    draws: bool = True

    def __call__(self, pixels: Images, rows: Rows, random: Random) -> Encoded:
        if len(pixels) not in (1, rows.prompts, rows.total):
            raise UnfitValue(
                f"Got {counted(len(pixels), 'image')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        vae = upcast_vae(self.vae)
        latents = encode(vae, (pixels * 2 - 1).to(vae.device, vae.dtype), self.tile, self.slicing)
        mean, std = latents.mean.float(), latents.std.float()
        if not vae.samples or not self.draws:
            return Encoded(row_for_each(vae.scale(mean), rows), random)
        if not random.single:
            mean, std = (row_for_each(t, rows) for t in (mean, std))
        noise, random = random.draw(len(mean), mean.shape[1:])
        return Encoded(row_for_each(vae.scale(mean + std * noise.to(mean.device)), rows), random)


class EncodeStart(Block):
    """`EncodeImage` for a run that may start from pure noise: then it draws no noise, since the sample is not read."""

    vae: Autoencoder[Any] = component(own="encoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False

    def __call__(self, pixels: Images, rows: Rows, random: Random, steps: Steps) -> Encoded:
        whole = EncodeImage(vae=self.vae, tile=self.tile, slicing=self.slicing)
        latents, after = whole(pixels, rows, random)
        return Encoded(latents, random if steps.begin == 0 else after)


class EncodedPixels(NamedTuple):
    """Clean latents, a row for each picture."""

    image_latents: ImageLatents


class EncodePixels(Block):
    """Turn pixels into the most likely latents, a row for each picture. tile, slicing: as in `DecodeLatents`."""

    vae: Autoencoder[Any] = component(own="encoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False

    def __call__(self, images: Images) -> EncodedPixels:
        vae = upcast_vae(self.vae)
        rows, columns = (side - side % vae.scale_factor for side in images.shape[2:])
        pixels = images[:, :, :rows, :columns] * 2 - 1
        latents = encode(vae, pixels.to(vae.device, vae.dtype), self.tile, self.slicing)
        return EncodedPixels(vae.scale(latents.mean.float()))


def row_for_each(t: torch.Tensor, rows: Rows) -> torch.Tensor:
    """A row for each picture to make, of one row for all or one for each prompt; those of a prompt lie together."""
    if len(t) == rows.total:
        return t
    return t.expand(rows.prompts, *t.shape[1:]).repeat_interleave(rows.each, 0)


class Hidden(NamedTuple):
    """Pixels, grey under the mask."""

    hidden: Images


class HideMasked(Block):
    """Make pixels under the mask grey, as in the training of U-Nets that inpaint."""

    def __call__(self, pixels: Images, mask: Mask) -> Hidden:
        return Hidden(torch.where(mask < 0.5, pixels, 0.5))


class Shrunk(NamedTuple):
    """A mask at latent size."""

    latent_mask: LatentMask


class ShrinkMask(Block):
    """Resize a mask to the latents, with a row for each picture to make.

    Raises:
        UnfitValue: neither one mask, nor one for each prompt or for each picture to make.
    """

    def __call__(self, mask: Mask, image_latents: ImageLatents, rows: Rows) -> Shrunk:
        if len(mask) not in (1, rows.prompts, rows.total):
            raise UnfitValue(
                f"Got {counted(len(mask), 'mask')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        return Shrunk(row_for_each(torch.nn.functional.interpolate(mask, size=image_latents.shape[2:]), rows))
