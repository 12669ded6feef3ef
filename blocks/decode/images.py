"""Latents to pixels, and pixels to the type of picture that the caller wants."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch

from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.models.tiling import decode
from ...components.types import Count, Images, Latents
from ...graph import Block, Port, component, knob

if TYPE_CHECKING:
    from PIL import Image

Pictures = Annotated[Any, Port("pictures")]
"""A list of PIL images, a float array (batch, rows, columns, 3), or a float tensor (batch, 3, rows, columns)."""


class Decoded(NamedTuple):
    """Pixels, from 0 to 1."""

    images: Images


class DecodeLatents(Block):
    """Turn latents into pixels; in float32 where the autoencoder cannot work in float16 (`force_upcast`).

    tile: pixels a side of a tile; larger pictures are decoded in tiles. slicing: decode the pictures of a batch one
    after another. Both are slower, with a peak of memory that does not grow with the picture or the batch.
    """

    vae: Autoencoder[Any] = component(own="decoder")  # Any: whichever config its class has
    tile: Count | None = None
    slicing: bool = False

    def __call__(self, latents: Latents) -> Decoded:
        vae = upcast_vae(self.vae)
        z = vae.unscale(latents.to(vae.device, vae.dtype))
        pixels = decode(vae, z, self.tile, self.slicing).float()
        # Clamping would hide an infinity. The run reports NaN.
        pixels = pixels.masked_fill(pixels.isinf(), torch.nan)
        return Decoded(pixels.add(1).div(2).clamp(0, 1))


class UsePixels(Block):
    """Use latents as pixels, for a model without an autoencoder: its latents are pixels from -1 to 1."""

    def __call__(self, latents: Latents) -> Decoded:
        return Decoded(latents.float().add(1).div(2).clamp(0, 1))


class Finished(NamedTuple):
    """Pictures, as PIL images, an array or a tensor."""

    images: Pictures


class FinishImages(Block):
    """Turn pixels into pictures. output_type: "pil" images, an "np" array or a "pt" tensor from 0 to 1.

    A pixel that is not a number is black: the run's note names the node that gave it.
    """

    output_type: Literal["pil", "np", "pt"] = knob("pil")

    def without_values(self) -> "FinishImages":
        """The same with tensors as pictures."""
        return self.with_(output_type="pt")

    def __call__(self, images: Images) -> Finished:
        images = images.nan_to_num(0.0, 1.0, 0.0)
        if self.output_type == "pt":
            return Finished(images)
        if self.output_type == "np":
            return Finished(images.permute(0, 2, 3, 1).cpu().numpy())  # b h w c
        return Finished(pictures(images))


def pictures(images: Images) -> "list[Image.Image]":
    """Pixels from 0 to 1, as PIL images."""
    from PIL import Image

    pixels = images.permute(0, 2, 3, 1).cpu()  # b h w c
    return [Image.fromarray(picture) for picture in (pixels * 255).round().byte().numpy()]
