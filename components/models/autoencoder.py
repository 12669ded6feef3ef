"""The base of all autoencoders, so that a block can hold any of them."""

from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from ...registry import codecs
from .base import Model
from .config import Config
from .vae import DiagonalGaussian

C = TypeVar("C", bound=Config)
A = TypeVar("A", bound="Autoencoder[Any]")  # Any: whichever config its class has


class Autoencoder(Model[C], ABC):
    """Base of models that turn pixels in [-1, 1] into latents and back.

    `decode` takes latents in the model's own space. A pipeline's latents are scaled to unit variance; `unscale` and
    `scale` convert between the two (Rombach et al. 2022, section 4.3.2 and appendix D.1).
    """

    samples: ClassVar[bool] = True
    """Whether latents are drawn from the encoder's distribution."""

    @classmethod
    def is_name(cls, value: str) -> bool:
        """Whether a text is the name of an autoencoder, and no path: "tiny"."""
        return value == "tiny"

    @classmethod
    def coerce(cls, value: object, current: object = None) -> object:
        """An autoencoder from a value that a user may pass: "tiny" is the one for the latent space of `current`.

        current: the autoencoder, or a handle of it. Other values are returned as they are.
        """
        return codecs["tiny_autoencoder"](current) if value == "tiny" else value

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @property
    @abstractmethod
    def scale_factor(self) -> int:
        """Pixels along one side of a latent pixel."""

    @abstractmethod
    def moments(self, x: Tensor) -> Tensor:
        """Return what `distribution` reads, `b k (h / s) (w / s)`, for pixels `b 3 h w` in [-1, 1]."""

    @abstractmethod
    def distribution(self, moments: Tensor) -> DiagonalGaussian:
        """Return the distribution of latents in the model's own space."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Return pixels `b 3 (h s) (w s)`, about in [-1, 1], for latents `b c h w` in the model's own space."""

    @abstractmethod
    def unscale(self, latents: Tensor) -> Tensor:
        """Convert a pipeline's latents `b c h w` into the input of `decode`."""

    @abstractmethod
    def scale(self, z: Tensor) -> Tensor:
        """Convert latents `b c h w` of `encode` into a pipeline's latents."""


def upcast_vae(vae: A) -> A:
    """Return a float32 copy of a float16 autoencoder whose config says `force_upcast`; any other as it is.

    SDXL's activations grow larger than float16 can hold and become NaN. The copy lives as long as the caller keeps it.
    A config without the key is taken as false: those of Stable Diffusion are older than the key.
    """
    if vae.dtype != torch.float16 or "force_upcast" not in vae.config.model_fields_set:
        return vae
    return deepcopy(vae).float() if vae.config.force_upcast else vae
