"""Flux Redux: an image said in the words of the text encoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model
from .config import Config


class ReduxImageEncoderConfig(Config):
    """The published keys."""

    redux_dim: int = 1152
    """The width of the vision tower's tokens."""
    txt_in_features: int = 4096
    """The width of the text encoder's tokens."""


class ReduxImageEncoder(Model[ReduxImageEncoderConfig]):
    """Two layers from a vision tower's tokens to a text encoder's, which are then put behind the prompt's.

    Black Forest Labs 2024, FLUX.1 Redux; there the tower is SigLIP's and the text encoder T5.
    """

    config_class = ReduxImageEncoderConfig

    def build(self, config: ReduxImageEncoderConfig) -> None:
        self.redux_up = nn.Linear(config.redux_dim, 3 * config.txt_in_features)
        self.redux_down = nn.Linear(3 * config.txt_in_features, config.txt_in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, redux_dim) to (batch, tokens, txt_in_features)."""
        return self.redux_down(F.silu(self.redux_up(tokens)))
