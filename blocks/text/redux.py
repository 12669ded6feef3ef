"""Image prompts for Flux: Redux (Black Forest Labs 2024)."""

from typing import Annotated, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.image_processor import ImageProcessor
from ...components.models.redux import ReduxImageEncoder
from ...components.pictures import PictureInput, each_picture
from ...components.types import Count
from ...graph import Block, Port, component, knob
from ...graph.errors import UnfitValue
from ...graph.layout import Measured
from ...registry import counted
from ..guiders.formulas import Scale
from .towers import Encoder, EncoderOutput

ImageTokens = Annotated[
    Float[Tensor, "images tokens width"],
    Port("image_tokens"),
    Measured(token_width=["image_embedder.txt_in_features"]),
]
"""Images as tokens of the width of a text encoder's."""


class VisionTower(Encoder, Protocol):
    """A vision encoder."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        ...

    def forward(self, pixel_values: Tensor) -> EncoderOutput:
        """Encode pixels (pictures, 3, rows, columns)."""
        ...


class EncodedImages(NamedTuple):
    """Tokens of each image."""

    image_tokens: ImageTokens


class EncodeImagePrompt(Block):
    """Turn images into tokens of the width of the text encoder's: through SigLIP, then two layers of Redux.

    Raises:
        UnfitValue: no image.
    """

    image_encoder: VisionTower = component()
    feature_extractor: ImageProcessor = component()
    image_embedder: ReduxImageEncoder = component()

    def __call__(self, image: PictureInput) -> EncodedImages:
        pixels = self.feature_extractor(each_picture(image)).to(self.image_encoder.device, self.image_encoder.dtype)
        return EncodedImages(self.image_embedder(self.image_encoder.forward(pixels).last_hidden_state))


class Empty(NamedTuple):
    """Conditioning of zeros, one row."""

    conditioning: Annotated[FluxConditioning, Measured(pooled_width=["pooled"])]


class MakeEmptyPrompt(Block):
    """Make conditioning of zeros in place of a prompt: Redux is published without text encoders.

    tokens: how many. pooled: the width of the pooled prompt.
    """

    tokens: Count = 512
    pooled: Count = 768

    def __call__(self, image_tokens: ImageTokens) -> Empty:
        width = image_tokens.shape[2]
        return Empty(
            FluxConditioning(image_tokens.new_zeros(1, self.tokens, width), image_tokens.new_zeros(1, self.pooled))
        )


class WithImages(NamedTuple):
    """Conditioning of the prompt and the images, one row."""

    conditioning: FluxConditioning


class AddImagePrompt(Block):
    """Put the tokens of images behind those of the prompt. Several images make one row: the sum of all, each scaled.

    prompt_embeds_scale: of the tokens. pooled_prompt_embeds_scale: of the pooled prompt. Each is one number for all
    images, or one for each.

    Raises:
        UnfitValue: another number of prompts or of scales than images.
    """

    prompt_embeds_scale: Scale = knob(1.0)
    pooled_prompt_embeds_scale: Scale = knob(1.0)

    def __call__(self, conditioning: FluxConditioning, image_tokens: ImageTokens) -> WithImages:
        count = len(image_tokens)
        if conditioning.rows not in (1, count):
            raise UnfitValue(
                f"There are {conditioning.rows} prompts for {counted(count, 'image')}. Give one for all, or one each."
            )
        return WithImages(conditioning.map(lambda one: self._with_images(one, image_tokens)))

    def _with_images(self, conditioning: FluxConditioning, image_tokens: Tensor) -> FluxConditioning:
        count = len(image_tokens)
        each = conditioning.expand(count // conditioning.rows, 1) if conditioning.rows == 1 else conditioning
        tokens = torch.cat([each.tokens.to(image_tokens), image_tokens], dim=1)
        return FluxConditioning(
            _sum(tokens, self.prompt_embeds_scale, "prompt_embeds_scale"),
            _sum(each.pooled.to(image_tokens), self.pooled_prompt_embeds_scale, "pooled_prompt_embeds_scale"),
        )


def _sum(rows: Tensor, scale: Scale, name: str) -> Tensor:
    """One row: the sum of all rows, each times its scale."""
    scales = (scale,) * len(rows) if isinstance(scale, int | float) else scale
    if len(scales) != len(rows):
        raise UnfitValue(
            f"{name} has {counted(len(scales), 'number')} for {counted(len(rows), 'image')}. "
            "Give one for all, or one each."
        )
    weights = torch.tensor(scales, dtype=rows.dtype, device=rows.device).reshape(-1, *[1] * (rows.ndim - 1))
    return (rows * weights).sum(0, keepdim=True)
