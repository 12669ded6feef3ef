"""Flux Redux: tokens of an image, in the space of the text encoder."""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Model
from .config import Config, Width


class ReduxImageEncoderConfig(Config):
    """The published keys."""

    redux_dim: Width = 1152
    """The width of the image encoder's tokens."""
    txt_in_features: Width = 4096
    """The width of the text encoder's tokens."""


class ReduxImageEncoder(Model[ReduxImageEncoderConfig]):
    """Maps an image encoder's tokens to the space of a text encoder's tokens, to append them to a prompt.

    Black Forest Labs 2024, FLUX.1 Redux, with SigLIP's image encoder and T5. Parameter names and config keys are
    published.
    """

    config_class = ReduxImageEncoderConfig

    def build(self, config: ReduxImageEncoderConfig) -> None:
        """Make the two layers."""
        self.redux_up = nn.Linear(config.redux_dim, 3 * config.txt_in_features)
        self.redux_down = nn.Linear(3 * config.txt_in_features, config.txt_in_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (batch, tokens, redux_dim) to (batch, tokens, txt_in_features)."""
        return self.redux_down(F.silu(self.redux_up(tokens)))
