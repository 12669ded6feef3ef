"""What is shown to the denoiser beside the noisy latents, pass by pass."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from ...components.types import ImageLatents, LatentMask, Mask, Pass, Predict, PredictFunction, Rows
from ...graph import Block
from ..image.encode import row_for_each


class Shown(NamedTuple):
    predict: Predict


class AddReferenceImage(Block):
    """Show a clean image to a denoiser that may look at one while it paints, such as Flux Kontext."""

    def __call__(self, predict: Predict, reference_latents: ImageLatents) -> Shown:
        there = _Moved((reference_latents,))

        def shown(passes: Sequence[Pass]) -> Sequence[Tensor]:
            more = there.to(passes[0].latents.device)
            return predict([replace(p, references=(*p.references, *more)) for p in passes])

        return Shown(shown)


class AddMaskChannels(Block):
    """Show the mask and the masked image to a U-Net trained to inpaint, as 1 + c channels behind the latents."""

    def __call__(self, predict: Predict, latent_mask: LatentMask, masked_latents: ImageLatents) -> Shown:
        return Shown(_with_channels(predict, latent_mask, masked_latents))


class AddFillChannels(Block):
    """Show the masked image and the mask as channels, the mask with all pixels of a latent: Flux Fill's training."""

    def __call__(self, predict: Predict, masked_latents: ImageLatents, mask: Mask, rows: Rows) -> Shown:
        factor = mask.shape[2] // masked_latents.shape[2]
        folded = pixel_unshuffle(mask, factor)  # b (factor factor) h w
        return Shown(_with_channels(predict, masked_latents, row_for_each(folded, rows)))


class AddControlChannels(Block):
    """Show a control picture as channels, as Flux Canny and Depth were trained."""

    def __call__(self, predict: Predict, control_latents: ImageLatents) -> Shown:
        return Shown(_with_channels(predict, control_latents))


def _with_channels(predict: PredictFunction, *channels: Tensor) -> PredictFunction:
    there = _Moved(channels)

    def shown(passes: Sequence[Pass]) -> Sequence[Tensor]:
        more = there.to(passes[0].latents.device)
        return predict([replace(p, channels=(*p.channels, *more)) for p in passes])

    return shown


class _Moved:
    """Tensors on the device of the latents: brought there once, not in every turn."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.tensors = tensors

    def to(self, device: torch.device) -> tuple[Tensor, ...]:
        if self.tensors[0].device != device or self.tensors[-1].device != device:
            self.tensors = tuple(t.to(device) for t in self.tensors)
        return self.tensors
