"""Pictures and masks, cut, blurred, put on each other and made into one another."""

from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from ...components.types import Count, Images, Mask, Number, Side
from ...graph import Block
from ...graph.errors import UnfitValue
from ...registry import counted
from .resize import Filter, resized

Place = Annotated[int, Ge(0)]


class Edited(NamedTuple):
    """Changed pictures."""

    images: Images


class Masked(NamedTuple):
    """A mask."""

    mask: Mask


class TakeImages(Block):
    """Take some pictures of a batch: `length` of them, from number `first` on, counted from 0.

    Raises:
        UnfitValue: the batch has no such picture.
    """

    first: Place = 0
    length: Count = 1

    def __call__(self, images: Images) -> Edited:
        if self.first >= len(images):
            raise UnfitValue(
                f"There is no picture {self.first} among {counted(len(images), 'picture')}, counted from 0. "
                "Give a smaller number."
            )
        return Edited(images[self.first : self.first + self.length])


class CropImages(Block):
    """Cut a rectangle out of pictures; what lies outside of them is left out."""

    left: Place = 0
    top: Place = 0
    width: Side = 512
    height: Side = 512

    def __call__(self, images: Images) -> Edited:
        left, top = min(self.left, images.shape[3] - 1), min(self.top, images.shape[2] - 1)
        return Edited(images[..., top : top + self.height, left : left + self.width])


class BlurImages(Block):
    """Blur pictures by a Gaussian.

    radius: of its kernel, in pixels. sigma: its width as a share of the radius. sharpen: 0 gives the blurred picture; a
    larger number takes so much of it away from the picture instead, which makes edges harder (an unsharp mask).
    """

    radius: Place = 1
    sigma: Annotated[float, Ge(0.01)] = 1.0
    sharpen: Annotated[float, Ge(0)] = 0.0

    def __call__(self, images: Images) -> Edited:
        blurred = _blurred(images, self.radius, self.sigma)
        if not self.sharpen:
            return Edited(blurred)
        return Edited((images + self.sharpen * (images - blurred)).clamp(0, 1))


def _blurred(images: Tensor, radius: int, sigma: float) -> Tensor:
    radius = min(radius, images.shape[2] - 1, images.shape[3] - 1)
    if not radius:
        return images
    line = torch.exp(-torch.linspace(-1, 1, 2 * radius + 1, device=images.device).square() / (2 * sigma**2))
    line = (line / line.sum()).to(images.dtype)
    channels = images.shape[1]
    padded = pad(images, [radius] * 4, mode="reflect")
    across = conv2d(padded, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return conv2d(across, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


class PasteImages(Block):
    """Put pictures on others, with their upper left corner at a place. The mask is white where they cover the others.

    resize: bring them to the size of the others first.
    """

    left: int = 0
    top: int = 0
    resize: bool = False

    def __call__(self, images: Images, source: Images, mask: Mask | None = None) -> Edited:
        rows, columns = images.shape[2:]
        if self.resize:
            source = resized(source, rows, columns, "bilinear")
        cover = torch.ones_like(source[:, :1]) if mask is None else mask.to(source)
        cover = resized(cover, source.shape[2], source.shape[3], "bilinear")
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + source.shape[2], rows), min(self.left + source.shape[3], columns)
        if bottom <= top or right <= left:
            return Edited(images)
        inside = (..., slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
        pasted = images.repeat(max(1, len(source) // len(images)), 1, 1, 1) if len(images) == 1 else images.clone()
        under = pasted[..., top:bottom, left:right]
        pasted[..., top:bottom, left:right] = under + cover[inside] * (source[inside].to(under) - under)
        return Edited(pasted)


class StitchImages(Block):
    """Put pictures side by side: the second ones on this side of the first ones.

    match: bring the shared side of the second ones to that of the first ones; else black is added. spacing: pixels of
    grey level `colour` (0 to 1) between them.
    """

    side: Literal["right", "down", "left", "up"] = "right"
    match: bool = True
    spacing: Place = 0
    colour: Number = 1.0
    method: Filter = "lanczos"

    def __call__(self, images: Images, more: Images) -> Edited:
        dim = 3 if self.side in ("right", "left") else 2
        other = 5 - dim
        if self.match:
            size = list(more.shape[2:])
            size[dim - 2] = max(round(size[dim - 2] * images.shape[other] / more.shape[other]), 1)
            size[other - 2] = images.shape[other]
            more = resized(more, size[0], size[1], self.method)
        count, length = max(len(images), len(more)), max(images.shape[other], more.shape[other])
        parts = [_filled(part, count, other, length) for part in (images, more.to(images))]
        between = torch.full_like(parts[0].narrow(dim, 0, 1), self.colour)
        spaces = [between.expand(*between.shape[:dim], self.spacing, *between.shape[dim + 1 :])] if self.spacing else []
        first, second = parts if self.side in ("right", "down") else reversed(parts)
        return Edited(torch.cat([first, *spaces, second], dim))


def _filled(images: Tensor, count: int, dim: int, length: int) -> Tensor:
    """So many pictures, of this length in a dimension, with the pictures in the middle."""
    images = torch.cat([images, images[-1:].expand(count - len(images), *images.shape[1:])])
    before = (length - images.shape[dim]) // 2
    after = length - images.shape[dim] - before
    return pad(images, (before, after, 0, 0) if dim == 3 else (0, 0, before, after))


class ReadChannel(Block):
    """Take a colour of pictures as a mask."""

    channel: Literal["red", "green", "blue"] = "red"

    def __call__(self, images: Images) -> Masked:
        place = ("red", "green", "blue").index(self.channel)
        return Masked(images[:, place : place + 1])


class ShowMask(Block):
    """Make grey pictures of a mask."""

    def __call__(self, mask: Mask) -> Edited:
        return Edited(mask.expand(-1, 3, -1, -1))


class InvertMask(Block):
    """Make white of black: 1 - x."""

    def __call__(self, mask: Mask) -> Masked:
        return Masked(1 - mask)


class GrowMask(Block):
    """Grow the white part of a mask by so many pixels, or shrink it by a negative number.

    corners: keep corners square; else they are cut, by steps in the four directions.
    """

    pixels: int = 0
    corners: bool = True

    def __call__(self, mask: Mask) -> Masked:
        sign = -1 if self.pixels < 0 else 1
        grown = mask * sign
        for _ in range(min(abs(self.pixels), max(mask.shape[2:]))):
            if self.corners:
                grown = max_pool2d(grown, 3, 1, 1)
            else:
                grown = torch.maximum(max_pool2d(grown, (3, 1), 1, (1, 0)), max_pool2d(grown, (1, 3), 1, (0, 1)))
        return Masked(grown * sign)


class FillMask(Block):
    """Make a mask of one grey level."""

    level: Annotated[float, Ge(0)] = 1.0
    width: Side = 512
    height: Side = 512

    def __call__(self) -> Masked:
        return Masked(torch.full((1, 1, self.height, self.width), min(self.level, 1.0)))
