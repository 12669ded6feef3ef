"""Pixels to latents for training: the distribution of the autoencoder, which is kept, and a sample of it."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from ...components.models.autoencoder import Autoencoder, upcast_vae
from ...components.random import Random
from ...components.types import ImageLatents, Images
from ...graph import Block, Port, UnfitValue, component
from ...graph.space import ANY_SPACE


@dataclass(frozen=True, eq=False)
class Posterior:
    """The distribution of clean latents (rows, channels, height, width), scaled to unit variance of the data.

    std: None for an autoencoder whose latents are not drawn.
    """

    mean: Tensor
    std: Tensor | None

    @classmethod
    def cat(cls, parts: "list[Posterior]") -> "Posterior":
        """The rows of all parts."""
        stds = [part.std for part in parts if part.std is not None]
        return cls(torch.cat([part.mean for part in parts]), torch.cat(stds) if stds else None)


PosteriorPort = Annotated[Posterior, Port("posterior", space=ANY_SPACE)]


class EncodedPosterior(NamedTuple):
    """The distribution of clean latents, a row for each picture."""

    posterior: PosteriorPort


class EncodePosterior(Block):
    """Turn pixels into the distribution of their latents (Rombach et al. 2022, section 3.1).

    It draws nothing, so it can be kept for all epochs.

    Raises:
        UnfitValue: sides that are no multiples of the pixels a side of a latent. Some pixels would be lost.
    """

    vae: Autoencoder[Any] = component()  # Any: whichever config its class has

    def __call__(self, pixels: Images) -> EncodedPosterior:
        vae = upcast_vae(self.vae)
        rows, columns = pixels.shape[-2:]
        if rows % vae.scale_factor or columns % vae.scale_factor:
            raise UnfitValue(
                f"Pictures of {rows}x{columns} (height x width) cannot be encoded: sides must be multiples of "
                f"{vae.scale_factor}. Set size= of the data."
            )
        latents = vae.distribution(vae.moments((pixels * 2 - 1).to(vae.device, vae.dtype)))
        mean, std = latents.mean.float(), latents.std.float()
        if not vae.samples:
            return EncodedPosterior(Posterior(vae.scale(mean), None))
        return EncodedPosterior(Posterior(vae.scale(mean), vae.scale(std) - vae.scale(torch.zeros_like(std))))


class Sampled(NamedTuple):
    """Clean latents, a row for each picture."""

    image_latents: ImageLatents
    random: Random


class SamplePosterior(Block):
    """Draw clean latents from their distribution."""

    def __call__(self, posterior: PosteriorPort, random: Random) -> Sampled:
        mean, std = posterior.mean, posterior.std
        if std is None:
            return Sampled(mean, random)
        noise, random = random.draw(len(mean), mean.shape[1:])
        return Sampled(mean + std * noise.to(mean.device), random)


class Centred(NamedTuple):
    """Pixels as clean latents, from -1 to 1."""

    image_latents: ImageLatents


class CentrePixels(Block):
    """Use pixels as clean latents, for a model without an autoencoder."""

    def __call__(self, pixels: Images) -> Centred:
        return Centred(pixels * 2 - 1)
