"""Read stored pictures and masks as pixels at a placement: resized, mirrored and cropped, as training data is."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...components.pictures import Picture, colours, each_picture, eight_bits, in_range, mask_of, size_of
from ...components.types import Images, Mask
from ...graph import Block

Stored: TypeAlias = Path | bytes | Image.Image
"""A picture as it is stored: a file, the bytes of one, or an open picture."""
Pair: TypeAlias = tuple[int, int]
"""Rows and columns, in pixels."""


@dataclass(frozen=True)
class Placement:
    """The way from a picture to pixels of a size: it is resized, mirrored or not, and cropped.

    resized: its size before the crop. corner: the first row and column of the crop. size: of the crop.
    """

    resized: Pair
    corner: Pair
    size: Pair
    mirrored: bool = False


class Placed(NamedTuple):
    """Pixels (1, 3, rows, columns), from 0 to 1."""

    pixels: Images


class PlacePicture(Block):
    """Read a picture, resize, mirror and crop it. background: the colour under transparent parts."""

    quick = True
    background: str = "white"

    def __call__(self, picture: Stored, placement: Placement) -> Placed:
        return Placed(placed(colours(in_range(open_stored(picture)), self.background), placement, "RGB"))


class MaskPlaced(NamedTuple):
    """A mask (1, 1, rows, columns), from 0 to 1."""

    mask: Mask


class PlaceMask(Block):
    """Read a mask, as `ReadMask` does with greys, and place it as its picture: 1 where the loss counts."""

    quick = True

    def __call__(self, mask_picture: Stored, placement: Placement) -> MaskPlaced:
        return MaskPlaced(placed(mask_of(in_range(open_stored(mask_picture))), placement, "L"))


class PlaceAlpha(Block):
    """Read the alpha channel of a picture as its mask: 1 where it is opaque, and everywhere without alpha."""

    quick = True

    def __call__(self, picture: Stored, placement: Placement) -> MaskPlaced:
        opened = open_stored(picture)
        if isinstance(opened, Image.Image) and opened.mode == "RGBA":
            return MaskPlaced(placed(opened.getchannel("A"), placement, "L"))
        return MaskPlaced(placed(torch.ones(1, *size_of(opened)), placement, "L"))


def placed(picture: Picture, placement: Placement, mode: str) -> Tensor:
    """The picture at its placement, as (1, channels, rows, columns) from 0 to 1, of 8 bits a channel."""
    rows, columns = placement.resized
    resized = eight_bits(picture).convert(mode).resize((columns, rows), Image.Resampling.LANCZOS)
    if placement.mirrored:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    (top, left), (height, width) = placement.corner, placement.size
    cropped = np.array(resized.crop((left, top, left + width, top + height)), dtype=np.float32) / 255
    return torch.from_numpy(cropped.reshape(height, width, -1)).permute(2, 0, 1)[None]


def open_stored(stored: Stored) -> Picture:
    """Read a picture, upright.

    Raises:
        PictureError: it is missing or broken.
        UnfitValue: a picture that cannot be used.
    """
    (picture,) = each_picture(io.BytesIO(stored) if isinstance(stored, bytes) else stored)
    return picture
