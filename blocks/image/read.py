"""Pictures in: whatever a user holds, as pixels at the size that is wanted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image
from torch import Tensor

from ...components.types import Images, Mask
from ...graph import Block, knob

AnyPicture = Image.Image | np.ndarray[Any, Any] | Tensor  # Any: shapes and dtypes are looked at when it is read
PictureInput = AnyPicture | str | Path | Sequence[AnyPicture | str | Path]
"""A PIL image, a file, an array (rows, columns, channels), a tensor (channels, rows, columns), or a list of them.

Floats go from 0 to 1, uint8 from 0 to 255.
"""
Size = Annotated[int, Ge(1)] | None
"""Pixels; None keeps the picture's own."""
_LATENTS = " Latents are no picture: give them as image_latents."


class Read(NamedTuple):
    pixels: Images


class ReadImage(Block):
    """Read pictures as pixels (batch, 3, rows, columns) from 0 to 1, at a size that is a multiple of `multiple`.

    Without `height` and `width` the picture keeps its own size, rounded down.
    """

    multiple: int = 8
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, image: PictureInput) -> Read:
        return Read(_together([_sized(p, self, "RGB") for p in each_picture(image)]))


class MaskRead(NamedTuple):
    mask: Mask


class ReadMask(Block):
    """Read a mask as (batch, 1, rows, columns): 1, to paint, where it is white; 0, to keep, where it is below half.

    With `binarize=False` its greys stay what they are.
    """

    multiple: int = 8
    binarize: bool = True
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, mask_image: PictureInput) -> MaskRead:
        grey = _together([_sized(p, self, "L") for p in each_picture(mask_image)])
        return MaskRead((grey >= 0.5).float() if self.binarize else grey)


def each_picture(image: PictureInput) -> list[AnyPicture]:
    if isinstance(image, str | Path):
        return [Image.open(image)]
    if isinstance(image, Image.Image):
        return [image]
    if isinstance(image, Tensor | np.ndarray):
        return list(image) if image.ndim == 4 else [image]
    if not len(image):
        raise ValueError("There is no picture: an empty list came. Give one for all prompts, or one each.")
    return [one for part in image for one in each_picture(part)]


def _together(pictures: list[Tensor]) -> Tensor:
    """Pictures of one size as rows. ValueError where their sizes differ and none was asked for."""
    if len(sizes := {p.shape[2:]: None for p in pictures}) > 1:
        told = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"Pictures of unlike sizes came: {told} (height x width). Give height and width, or one size.")
    return torch.cat(pictures)


def _sized(picture: AnyPicture, block: ReadImage | ReadMask, mode: str) -> Tensor:
    """One picture as (1, channels, rows, columns) from 0 to 1, at the block's size."""
    if isinstance(picture, Image.Image):
        size = _size(block, picture.height, picture.width)
        if mode == "RGB":
            picture = picture.convert(mode)  # first, for colours of a palette cannot be mixed
        # A mask turns grey last, as in the reference: where it crosses half decides what is painted.
        picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS).convert(mode)
        pixels = np.asarray(picture, dtype=np.float32) / 255
        return torch.from_numpy(pixels.reshape(*size, -1)).permute(2, 0, 1)[None]
    pixels = torch.as_tensor(picture)
    if isinstance(picture, np.ndarray) and picture.ndim == 3:
        pixels = pixels.movedim(-1, 0)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    pixels = pixels.float() if pixels.dtype == torch.bool else pixels
    channels = 3 if mode == "RGB" else 1
    if pixels.ndim != 3 or pixels.shape[0] not in (1, channels) or not pixels.is_floating_point():
        came = f"{type(picture).__name__} of shape {tuple(picture.shape)} and {picture.dtype}"
        hint = _LATENTS if isinstance(picture, Tensor) and mode == "RGB" else ""
        raise ValueError(
            f"A picture came as {came}. Wanted: a PIL image, or 0 to 1 as ({channels}, rows, columns) in a tensor, "
            f"(rows, columns, {channels}) in an array.{hint}"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # so written, NaN is refused too
        raise ValueError(f"A picture's values go from {low:g} to {high:g}. Wanted: 0 to 1.")
    pixels = pixels.float().expand(channels, *pixels.shape[1:])[None]
    size = _size(block, *pixels.shape[2:])
    return pixels if tuple(pixels.shape[2:]) == size else torch.nn.functional.interpolate(pixels, size=size)


def _size(block: ReadImage | ReadMask, rows: int, columns: int) -> tuple[int, int]:
    """The size to read at: the one asked for, or the picture's own, rounded down to a multiple."""
    return _side("height", block.height, rows, block.multiple), _side("width", block.width, columns, block.multiple)


def _side(name: str, asked: int | None, own: int, multiple: int) -> int:
    if asked is None:
        return max(own // multiple, 1) * multiple
    if asked % multiple:
        near = max(round(asked / multiple), 1) * multiple
        raise ValueError(f"{name}={asked} cannot be made: it must be a multiple of {multiple}. The nearest is {near}.")
    return asked
