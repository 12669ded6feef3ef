"""Read pictures and masks of any type as pixels, at a size."""

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

AnyPicture = Image.Image | np.ndarray[Any, Any] | Tensor  # Any: shapes and dtypes are checked when it is read
PictureInput = AnyPicture | str | Path | Sequence[AnyPicture | str | Path]
"""A PIL image, a file, an array (rows, columns, channels), a tensor (channels, rows, columns), or a list of them.

Floats go from 0 to 1, uint8 from 0 to 255.
"""
Size = Annotated[int, Ge(1)] | None
"""Pixels a side; None keeps the size of the picture."""
_LATENTS = " Latents are no picture: pass them as image_latents."


class Read(NamedTuple):
    """Pixels (pictures, 3, rows, columns), from 0 to 1."""

    pixels: Images


class ReadImage(Block):
    """Read pictures as pixels (pictures, 3, rows, columns) from 0 to 1.

    height, width: pixels, multiples of `multiple`; None keeps the size of the picture, rounded down to one.

    Raises:
        ValueError: no picture, values outside 0 to 1, another shape, a size that is no multiple, or pictures of
            different sizes where none was passed.
    """

    multiple: int = 8
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, image: PictureInput) -> Read:
        return Read(_together([_sized(p, self, "RGB") for p in each_picture(image)]))


class MaskRead(NamedTuple):
    """A mask (masks, 1, rows, columns), from 0 to 1."""

    mask: Mask


class ReadMask(Block):
    """Read masks as (masks, 1, rows, columns): 1 where the mask is white, to paint; 0 where it is darker than half.

    binarize: off, greys stay as they are. For the size and for errors see `ReadImage`.
    """

    multiple: int = 8
    binarize: bool = True
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, mask_image: PictureInput) -> MaskRead:
        grey = _together([_sized(p, self, "L") for p in each_picture(mask_image)])
        return MaskRead((grey >= 0.5).float() if self.binarize else grey)


def each_picture(image: PictureInput) -> list[AnyPicture]:
    """The single pictures of an input: of files, batches and lists too. Raise ValueError for an empty list."""
    if isinstance(image, str | Path):
        return [Image.open(image)]
    if isinstance(image, Image.Image):
        return [image]
    if isinstance(image, Tensor | np.ndarray):
        return list(image) if image.ndim == 4 else [image]
    if not len(image):
        raise ValueError("There is no picture: the list is empty. Give one for all prompts, or one each.")
    return [one for part in image for one in each_picture(part)]


def _together(pictures: list[Tensor]) -> Tensor:
    """Pictures of one size as rows. Raise ValueError where the sizes differ."""
    if len(sizes := {p.shape[2:]: None for p in pictures}) > 1:
        each = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise ValueError(f"The pictures have different sizes: {each} (height x width). Pass height and width.")
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
        got = f"{type(picture).__name__} of shape {tuple(picture.shape)} and {picture.dtype}"
        hint = _LATENTS if isinstance(picture, Tensor) and mode == "RGB" else ""
        raise ValueError(
            f"A picture needs to be a PIL image, a tensor ({channels}, rows, columns) or an array (rows, columns, "
            f"{channels}) from 0 to 1, got {got}.{hint}"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # so written, NaN is refused too
        raise ValueError(f"A picture needs values from 0 to 1, got {low:g} to {high:g}.")
    pixels = pixels.float().expand(channels, *pixels.shape[1:])[None]
    size = _size(block, *pixels.shape[2:])
    return pixels if tuple(pixels.shape[2:]) == size else torch.nn.functional.interpolate(pixels, size=size)


def _size(block: ReadImage | ReadMask, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns to read at: those of the block, or the picture's own, rounded down to a multiple."""
    return _side("height", block.height, rows, block.multiple), _side("width", block.width, columns, block.multiple)


def _side(name: str, wanted: int | None, own: int, multiple: int) -> int:
    if wanted is None:
        return max(own // multiple, 1) * multiple
    if wanted % multiple:
        near = max(round(wanted / multiple), 1) * multiple
        raise ValueError(f"{name}={wanted} cannot be made: it must be a multiple of {multiple}. The nearest is {near}.")
    return wanted
