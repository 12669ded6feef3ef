"""Latents to pixels for training: what a decoder makes of the latents of pictures."""

from typing import Any, NamedTuple

from ...components.models.autoencoder import Autoencoder
from ...components.types import ImageLatents, Images, Prediction
from ...graph import Block, component


class Reconstructed(NamedTuple):
    """Decoded pixels, and those of the pictures: (rows, 3, height, width), about in [-1, 1]."""

    prediction: Prediction
    target: Prediction


class ReconstructPixels(Block):
    """Decode the latents of pictures, for a loss that compares the result with the pictures themselves."""

    vae: Autoencoder[Any] = component()  # Any: whichever config its class has

    def __call__(self, image_latents: ImageLatents, pixels: Images) -> Reconstructed:
        vae = self.vae
        latents = vae.unscale(image_latents.to(vae.device)).to(vae.dtype)
        return Reconstructed(vae.decode(latents).float(), (pixels * 2 - 1).to(vae.device))
