"""Inputs of the denoiser besides the noisy latents: channels, and images to look at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from ...components.types import ImageLatents, LatentMask, Mask, Pass, Predict, PredictFunction, Rows
from ...graph import Block
from ..image.encode import row_for_each


class Extended(NamedTuple):
    """The denoiser as a function, with further inputs in each pass."""

    predict: Predict


class AddReferenceImage(Block):
    """Add a clean image to each pass, for a denoiser that looks at one while it paints, such as Flux Kontext."""

    def __call__(self, predict: Predict, reference_latents: ImageLatents) -> Extended:
        references = _OnDevice((reference_latents,))

        def extended(passes: Sequence[Pass]) -> Sequence[Tensor]:
            more = references.on(passes[0].latents.device)
            return predict([replace(p, references=(*p.references, *map(p.rows_of, more))) for p in passes])

        return Extended(extended)


class AddMaskChannels(Block):
    """Add the mask and the masked image as 1 + c channels, for a U-Net that was trained to inpaint."""

    adds_channels = True

    def __call__(self, predict: Predict, latent_mask: LatentMask, masked_latents: ImageLatents) -> Extended:
        return Extended(_with_channels(predict, latent_mask, masked_latents))


class AddFillChannels(Block):
    """Add the masked image and the mask as channels, for Flux Fill; the mask has one for each pixel of a latent."""

    adds_channels = True

    def __call__(self, predict: Predict, masked_latents: ImageLatents, mask: Mask, rows: Rows) -> Extended:
        factor = mask.shape[2] // masked_latents.shape[2]
        folded = pixel_unshuffle(mask, factor)  # b (factor factor) h w
        return Extended(_with_channels(predict, masked_latents, row_for_each(folded, rows)))


class AddControlChannels(Block):
    """Add a control picture as channels, for Flux Canny and Depth."""

    adds_channels = True

    def __call__(self, predict: Predict, control_latents: ImageLatents) -> Extended:
        return Extended(_with_channels(predict, control_latents))


def _with_channels(predict: PredictFunction, *channels: Tensor) -> PredictFunction:
    added = _OnDevice(channels)

    def extended(passes: Sequence[Pass]) -> Sequence[Tensor]:
        more = added.on(passes[0].latents.device)
        return predict([replace(p, channels=(*p.channels, *map(p.rows_of, more))) for p in passes])

    return extended


class _OnDevice:
    """Tensors on the device of the latents, moved once and not in every step."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors

    def on(self, device: torch.device) -> tuple[Tensor, ...]:
        if self.tensors[0].device != device or self.tensors[-1].device != device:
            self.tensors = tuple(t.to(device) for t in self.tensors)
        return self.tensors
