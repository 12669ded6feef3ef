"""What all autoencoders share, so that a block can hold any of them."""

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import Tensor

from .base import Model
from .config import Config

C = TypeVar("C", bound=Config)


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
