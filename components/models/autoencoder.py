"""What all autoencoders share, so that a block can hold any of them."""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor

from .base import Model
from .config import Config

C = TypeVar("C", bound=Config)
A = TypeVar("A", bound="Autoencoder[Any]")  # Any: whichever config its class has


class Autoencoder(Model[C], ABC):
    """Turns pixels in [-1, 1] into latents and back.

    `decode` takes latents in the model's own space; a pipeline's latents are scaled to unit variance, and
    `unscale` and `scale` go between the two (Rombach et al. 2022, section 4.3.2 and appendix D.1).
    """

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of a latent."""

    @property
    @abstractmethod
    def scale_factor(self) -> int:
        """Pixels along one side of a latent pixel."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Pixels `b 3 (h s) (w s)`, about in [-1, 1], for latents `b c h w` in the model's own space."""

    @abstractmethod
    def unscale(self, latents: Tensor) -> Tensor:
        """A pipeline's latents -> what `decode` takes."""

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """What `encode` gives -> a pipeline's latents."""


def upcast_vae(vae: A) -> A:
    """The autoencoder itself; or a float32 copy, where its config says `force_upcast` and it is in float16.

    SDXL's activations grow larger than float16 can hold, and NaN comes of it. The copy lives as long as the caller
    holds it. A config without the key says nothing: those of Stable Diffusion are older than it.
    """
    if vae.dtype != torch.float16 or "force_upcast" not in vae.config.model_fields_set:
        return vae
    return deepcopy(vae).float() if vae.config.force_upcast else vae
