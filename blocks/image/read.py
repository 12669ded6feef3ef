"""Read pictures and masks of any type as pixels, at a size."""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...components.pictures import Picture, PictureInput, colours, each_picture, in_range, mask_of
from ...components.types import Count, Images, Mask, Side
from ...graph import Block, knob
from ...graph.errors import UnfitValue

Size = Side | None
"""Pixels a side; None keeps the size of the picture."""


class Read(NamedTuple):
    """Pixels (pictures, 3, rows, columns), from 0 to 1."""

    pixels: Images


class ReadImage(Block):
    """Read pictures as pixels (pictures, 3, rows, columns) from 0 to 1, upright.

    height, width: pixels, multiples of `multiple`; None keeps the size of the picture, rounded down to one.
    background: the colour under transparent parts, by name or as "#rrggbb".

    Raises:
        OSError: a file that is missing or broken, or of an unknown format.
        UnfitValue: no picture, values outside 0 to 1, another shape, a size that is no multiple, or pictures of
            different sizes where none was passed.
    """

    multiple: Count = 8
    background: str = "white"
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, image: PictureInput) -> Read:
        return Read(
            _together([_sized(colours(in_range(p), self.background), "RGB", self) for p in each_picture(image)])
        )


class MaskRead(NamedTuple):
    """A mask (masks, 1, rows, columns), from 0 to 1."""

    mask: Mask


class ReadMask(Block):
    """Read masks as (masks, 1, rows, columns): 1 where the mask is white, to paint; 0 where it is darker than half.

    Transparent parts are black. Where all visible parts have one colour, opaque parts are white: the shape is in the
    alpha channel. binarize: off, greys stay as they are. For the size and for errors see `ReadImage`.
    """

    multiple: Count = 8
    binarize: bool = True
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, mask_image: PictureInput) -> MaskRead:
        grey = _together([_sized(mask_of(in_range(p)), "L", self) for p in each_picture(mask_image)])
        return MaskRead((grey >= 0.5).float() if self.binarize else grey)


def _together(pictures: list[Tensor]) -> Tensor:
    """Pictures of one size as rows. Raise UnfitValue where the sizes differ."""
    if len(sizes := {p.shape[2:]: None for p in pictures}) > 1:
        each = ", ".join(f"{height}x{width}" for height, width in sizes)
        raise UnfitValue(f"The pictures have different sizes: {each} (height x width). Pass height and width.")
    return torch.cat(pictures)


def _sized(picture: Picture, mode: str, block: ReadImage | ReadMask) -> Tensor:
    """One picture as (1, channels, rows, columns) from 0 to 1, at the block's size."""
    if isinstance(picture, Tensor):
        pixels = picture.float()[None]
        size = _size(block, *pixels.shape[2:])
        return pixels if tuple(pixels.shape[2:]) == size else torch.nn.functional.interpolate(pixels, size=size)
    size = _size(block, picture.height, picture.width)
    resized = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    if resized.mode == "F":  # from 0 to 1; the filter goes beyond them at sharp edges
        return torch.from_numpy(np.array(resized)).clamp(0, 1).expand(1, 3 if mode == "RGB" else 1, *size)
    # A mask turns grey last, as in the reference: where it crosses half decides what is painted.
    pixels = np.asarray(resized.convert(mode), dtype=np.float32) / 255
    return torch.from_numpy(pixels.reshape(*size, -1)).permute(2, 0, 1)[None]


def _size(block: ReadImage | ReadMask, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns to read at: those of the block, or the picture's own, rounded down to a multiple."""
    return _side("height", block.height, rows, block.multiple), _side("width", block.width, columns, block.multiple)


def _side(name: str, wanted: int | None, own: int, multiple: int) -> int:
    if wanted is None:
        return max(own // multiple, 1) * multiple
    if wanted % multiple:
        near = max(round(wanted / multiple), 1) * multiple
        raise UnfitValue(f"{name}={wanted} cannot be made: it must be a multiple of {multiple}. The nearest is {near}.")
    return wanted
