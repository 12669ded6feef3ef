"""The values that flow between blocks, as port types."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from ..graph.space import ANY_SPACE
from ..graph.types import Port
from .models.taps import NO_TAPS
from .models.taps import Taps as Taps
from .random import Random as Random
from .schedulers.schedule import Schedule, Step

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Latents = Annotated[Float[Tensor, "batch channels height width"], Port("latents", space=ANY_SPACE)]
"""What the denoiser works on, scaled as its autoencoder says (unit variance)."""
ImageLatents = Annotated[Float[Tensor, "batch channels height width"], Port("image_latents", space=ANY_SPACE)]
"""Clean latents of a given image."""
Prediction = Annotated[Float[Tensor, "batch channels height width"], Port("prediction", space=ANY_SPACE)]
"""What the denoiser says of the latents; its meaning is the scheduler's `prediction_type`."""
Images = Annotated[Float[Tensor, "batch 3 rows columns"], Port("images")]
"""Pixels, red green blue, from 0 to 1."""
Mask = Annotated[Float[Tensor, "batch 1 rows columns"], Port("mask")]
"""1 where something new is painted, 0 where the image is kept; at pixel size."""
LatentMask = Annotated[Float[Tensor, "batch 1 height width"], Port("latent_mask")]
"""A mask at latent size."""
Steps = Annotated[Schedule, Port("steps")]
"""The turns of a denoising loop."""

Role = Literal["positive", "negative", "perturbed"]


@dataclass(frozen=True)
class Conditioning:
    """What a prompt became, one row an image. Families subclass it with what else their denoiser reads.

    tokens: (rows, tokens, width).
    """

    tokens: Float[Tensor, "rows tokens width"]

    @property
    def rows(self) -> int:
        return len(self.tokens)

    def expanded(self, prompts: int, each: int) -> Self:
        """`each` rows for each of `prompts` prompts, beside each other; a single row serves all prompts."""
        return self._map(lambda t: t.expand(prompts, *t.shape[1:]).repeat_interleave(each, 0))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same conditioning with each of its tensors changed."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


class Rows(NamedTuple):
    """How many pictures a call makes: `each` for every one of `prompts`."""

    prompts: int
    each: int

    @property
    def total(self) -> int:
        return self.prompts * self.each


class Residuals(NamedTuple):
    """What a control net adds inside a U-Net: one tensor for each skip connection, and one for the middle."""

    down: tuple[Tensor, ...]
    mid: Tensor


@dataclass(frozen=True)
class Pass:
    """One question to the denoiser. Guiders ask several at once; blocks that take `predict` may `replace` fields.

    latents: (batch, channels, height, width), not scaled by the scheduler. channels: joined behind the latents after
    that scaling, each (batch, c, height, width). residuals: added inside the model. taps: what its layers do otherwise.
    """

    latents: Tensor
    step: Step
    conditioning: Conditioning
    role: Role = "positive"
    channels: tuple[Tensor, ...] = ()
    residuals: tuple[Residuals, ...] = ()
    taps: Taps = NO_TAPS


Predict = Annotated[Callable[[Sequence[Pass]], Sequence[Tensor]], Port("predict", space=ANY_SPACE)]
"""The denoiser as a function: one prediction for each pass, in order. How passes share a forward is its own affair."""

Picture: TypeAlias = "Image.Image | np.ndarray | Tensor"
