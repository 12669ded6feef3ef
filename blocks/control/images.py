"""Control pictures: read once, at the size of the picture that is made, a row for each row of the passes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...components.models.autoencoder import Autoencoder
from ...components.pictures import Picture, PictureInput, each_picture
from ...components.types import Pass, Rows
from ...graph.errors import UnfitValue
from ...registry import counted
from ..image.read import ReadImage, ReadMask

Features = Callable[[Sequence[Pass]], tuple[Tensor, ...]]
"""Features of control pictures for the rows of passes."""


def read_control(
    image: PictureInput,
    rows: Rows,
    size: Callable[[int, int], tuple[int, int]],
    channels: int,
    features: Callable[[Tensor], tuple[Tensor, ...]],
    background: str,
    name: str = "control_image",
) -> Features:
    """The features of control pictures as a function of passes, on the device of the passes.

    size: rows and columns of pixels for latents of a height and width. channels: 3, or 1 for grey. features: computed
    once from the pixels (pictures, channels, rows, columns), each (pictures, …). background: the
    colour under transparent parts. name: of the input, for errors.

    Raises:
        UnfitValue: neither one picture, nor one for each prompt or for each picture to make.
    """
    pictures = each_picture(image)
    if len(pictures) not in (1, rows.prompts, rows.total):
        raise UnfitValue(
            f"{name} has {counted(len(pictures), 'picture')} for {counted(rows.prompts, 'prompt')}. "
            "Give one for all, or one each."
        )
    computed: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = {}  # as long-lived as the function

    def of(passes: Sequence[Pass]) -> tuple[Tensor, ...]:
        (height, width), device = passes[0].latents.shape[2:], passes[0].latents.device
        if (height, width, device) not in computed:
            pixels = torch.cat([_pixels(p, size(height, width), channels, background) for p in pictures])
            each = 1 if len(pixels) in (1, rows.total) else rows.each
            computed[height, width, device] = tuple(t.to(device).repeat_interleave(each, 0) for t in features(pixels))
        own = computed[height, width, device]
        return tuple(torch.cat([p.rows_of(t) for p in passes]) for t in own)

    return of


def pixel_size(vae: Autoencoder[Any], height: int, width: int) -> tuple[int, int]:
    """Rows and columns of pixels for latents of a height and width."""
    return height * vae.scale_factor, width * vae.scale_factor


def _pixels(picture: Picture, size: tuple[int, int], channels: int, background: str) -> Tensor:
    """One picture, (1, channels, rows, columns) from 0 to 1.

    A tensor may go down to -1: nets that were trained to inpaint read -1 where there is something to paint.
    """
    if isinstance(picture, Tensor) and picture.is_floating_point() and bool((picture < 0).any()):
        return _pixels((picture + 1) / 2, size, channels, background) * 2 - 1
    rows, columns = size
    if channels == 1:
        return ReadMask(multiple=1, binarize=False, height=rows, width=columns)(picture).mask
    return ReadImage(multiple=1, background=background, height=rows, width=columns)(picture).pixels
