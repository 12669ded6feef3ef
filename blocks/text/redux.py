"""Images in place of words: Flux Redux (Black Forest Labs 2024)."""

from typing import Annotated, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.image_processor import ImageProcessor
from ...components.models.redux import ReduxImageEncoder
from ...graph import Block, Port, component, knob
from ...graph.layout import Measured
from ...registry import counted
from ..guiders.formulas import Scale
from ..image.read import PictureInput, each_picture

ImageTokens = Annotated[
    Float[Tensor, "images tokens width"],
    Port("image_tokens"),
    Measured(token_width=["image_embedder.txt_in_features"]),
]
"""Images in the words of a text encoder."""


class VisionOutput(Protocol):
    """What a vision tower gives."""

    @property
    def last_hidden_state(self) -> Tensor: ...


class VisionTower(Protocol):
    """A vision tower, ours or transformers'."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def forward(self, pixel_values: Tensor) -> VisionOutput: ...


class Seen(NamedTuple):
    image_tokens: ImageTokens


class EncodeImagePrompt(Block):
    """Say images in the words of the text encoder: what SigLIP sees, through Redux's two layers."""

    image_encoder: VisionTower = component()
    feature_extractor: ImageProcessor = component()
    image_embedder: ReduxImageEncoder = component()

    def __call__(self, image: PictureInput) -> Seen:
        pictures = [torch.from_numpy(p).movedim(-1, 0) if isinstance(p, np.ndarray) else p for p in each_picture(image)]
        pixels = self.feature_extractor(pictures).to(self.image_encoder.device, self.image_encoder.dtype)
        return Seen(self.image_embedder(self.image_encoder.forward(pixels).last_hidden_state))


class Blank(NamedTuple):
    conditioning: Annotated[FluxConditioning, Measured(pooled_width=["pooled"])]


class MakeEmptyPrompt(Block):
    """No prompt: zeros, as Redux is published without text encoders. pooled: the width of CLIP's summary."""

    tokens: int = 512
    pooled: int = 768

    def __call__(self, image_tokens: ImageTokens) -> Blank:
        width = image_tokens.shape[2]
        return Blank(
            FluxConditioning(image_tokens.new_zeros(1, self.tokens, width), image_tokens.new_zeros(1, self.pooled))
        )


class Joined(NamedTuple):
    conditioning: FluxConditioning


class AddImagePrompt(Block):
    """Put images behind the prompt's tokens. Several are one prompt: the sum of all, each times its scale.

    One scale for all images, or one each: `prompt_embeds_scale` of tokens, `pooled_prompt_embeds_scale` of the summary.
    """

    prompt_embeds_scale: Scale = knob(1.0)
    pooled_prompt_embeds_scale: Scale = knob(1.0)

    def __call__(self, conditioning: FluxConditioning, image_tokens: ImageTokens) -> Joined:
        count = len(image_tokens)
        if conditioning.rows not in (1, count):
            raise ValueError(
                f"There are {conditioning.rows} prompts for {counted(count, 'image')}. Give one for all, or one each."
            )
        words = conditioning.expand(count // conditioning.rows, 1) if conditioning.rows == 1 else conditioning
        tokens = torch.cat([words.tokens.to(image_tokens), image_tokens], dim=1)
        return Joined(
            FluxConditioning(
                _sum(tokens, self.prompt_embeds_scale, "prompt_embeds_scale"),
                _sum(words.pooled.to(image_tokens), self.pooled_prompt_embeds_scale, "pooled_prompt_embeds_scale"),
            )
        )


def _sum(rows: Tensor, scale: Scale, name: str) -> Tensor:
    """One row: the sum of all, each times its scale."""
    scales = (scale,) * len(rows) if isinstance(scale, int | float) else scale
    if len(scales) != len(rows):
        told = f"{name} has {counted(len(scales), 'number')} for {counted(len(rows), 'image')}"
        raise ValueError(f"{told}. Give one for all, or one each.")
    weights = torch.tensor(scales, dtype=rows.dtype, device=rows.device).reshape(-1, *[1] * (rows.ndim - 1))
    return (rows * weights).sum(0, keepdim=True)
