"""Pixels at another size, inverted, side by side in one batch, and measured."""

from math import sqrt
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn.functional import interpolate

from ...components.types import Count, ImageLatents, Images, Latents
from ...graph import Block
from ...graph.errors import UnfitValue

Filter = Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area", "lanczos"]
"""How new pixels are made of old ones. "lanczos" is Pillow's, on 8 bits a channel."""
Factor = Annotated[float, Gt(0)]
Rule = Literal["size", "factor", "pixels", "longest", "shortest", "multiple"]


class Resized(NamedTuple):
    """Pixels at another size."""

    images: Images


class ResizeImages(Block):
    """Resize pixels by a rule.

    rule: "size" is width x height, where 0 for one side keeps the proportions; "factor" multiplies both sides; "pixels"
    keeps the proportions, with so many times 1024 x 1024; "longest" and "shortest" set one side, in pixels; "multiple"
    rounds both sides down. number: of the rule. crop: cut the centre in the proportions of the size first.

    Raises:
        UnfitValue: a size without pixels.
    """

    rule: Rule = "size"
    width: int = 0
    height: int = 0
    number: float = 1.0
    method: Filter = "bicubic"
    crop: bool = False
    multiple: Count = 1

    def __call__(self, images: Images) -> Resized:
        rows, columns = images.shape[2:]
        height, width = (max(round(side / self.multiple), 1) * self.multiple for side in self._size(rows, columns))
        if self.crop and self.rule == "size":
            images = _cropped(images, height / width)
        return Resized(resized(images, height, width, self.method))

    def _size(self, rows: int, columns: int) -> tuple[int, int]:
        number = self.number
        match self.rule:
            case "factor":
                factor = number
            case "pixels":
                factor = sqrt(number * 1024 * 1024 / (rows * columns))
            case "longest":
                factor = number / max(rows, columns)
            case "shortest":
                factor = number / min(rows, columns)
            case "multiple":
                return rows - rows % max(int(number), 1), columns - columns % max(int(number), 1)
            case "size":
                if not self.width and not self.height:
                    raise UnfitValue("ResizeImages has neither a width nor a height. Set one of them.")
                height = self.height or max(round(rows * self.width / columns), 1)
                return height, self.width or max(round(columns * self.height / rows), 1)
        return max(round(rows * factor), 1), max(round(columns * factor), 1)


def resized(pixels: Tensor, height: int, width: int, method: Filter, antialias: bool = False) -> Tensor:
    """Pixels or latents (b, c, rows, columns) at a size. "lanczos" takes pixels from 0 to 1, of three channels."""
    if tuple(pixels.shape[2:]) == (height, width):
        return pixels
    if method == "lanczos":
        return torch.cat([_lanczos(one, height, width) for one in pixels]).to(pixels)
    return interpolate(pixels, size=(height, width), mode=method, antialias=antialias)


def _lanczos(pixels: Tensor, height: int, width: int) -> Tensor:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
    array = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), dtype=np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def _cropped(images: Tensor, ratio: float) -> Tensor:
    """The centre, with height / width = ratio."""
    rows, columns = images.shape[2:]
    high, wide = min(rows, round(columns * ratio)), min(columns, round(rows / ratio))
    top, left = (rows - high) // 2, (columns - wide) // 2
    return images[:, :, top : top + high, left : left + wide]


class InvertImages(Block):
    """Make dark pixels bright: 1 - x."""

    def __call__(self, images: Images) -> Resized:
        return Resized(1 - images)


class JoinImages(Block):
    """Put pictures into one batch; the second ones are resized to the first."""

    method: Filter = "bilinear"

    def __call__(self, images: Images, more: Images) -> Resized:
        return Resized(torch.cat([images, resized(more, images.shape[2], images.shape[3], self.method).to(images)]))


class Measured(NamedTuple):
    """The size of pictures in pixels, and their number."""

    width: int
    height: int
    batch_size: int


class MeasureImages(Block):
    """Measure pictures."""

    def __call__(self, images: Images) -> Measured:
        return Measured(images.shape[3], images.shape[2], len(images))


class EnlargedLatents(NamedTuple):
    """Latents at another size."""

    image_latents: ImageLatents


class ResizeLatents(Block):
    """Resize latents by a factor, or to a size in latents: the second of two passes draws details into them.

    antialias: whether "bilinear" and "bicubic" read all latents that a smaller size covers.
    """

    factor: Factor = 1.5
    height: int = 0
    width: int = 0
    method: Filter = "nearest-exact"
    antialias: bool = False

    def __call__(self, latents: Latents) -> EnlargedLatents:
        rows, columns = latents.shape[2:]
        height = self.height or max(round(rows * self.factor), 1)
        width = self.width or max(round(columns * self.factor), 1)
        return EnlargedLatents(resized(latents, height, width, self.method, self.antialias))
