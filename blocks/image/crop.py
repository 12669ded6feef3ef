"""Inpaint a small region at full size: crop to the mask, and put the painted crop back."""

from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Ge
from PIL import Image

from ...components.pictures import (
    Picture,
    PictureInput,
    colours,
    each_picture,
    eight_bits,
    in_range,
    mask_of,
    size_of,
)
from ...components.types import Images
from ...graph import Block, Port, knob
from ...graph.errors import UnfitValue
from .read import Size

Region = Annotated[tuple[int, int, int, int], Port("region")]
"""Left, upper, right, lower, in pixels."""
WHOLE = (0, 0, 0, 0)
"""The region for all of a picture."""


class Cropped(NamedTuple):
    """The crop of a picture and its mask, and where it was."""

    image: PictureInput
    mask_image: PictureInput
    region: Region


class CropToMask(Block):
    """Crop a picture and its mask to the white part of the mask, and resize the crop to the picture that is painted.

    padding_mask_crop: pixels around the white part; None crops nothing. height, width: of the painted picture, whose
    shape the crop takes. background: as in `ReadImage`.

    Raises:
        UnfitValue: several pictures, a picture and a mask of different sizes, or a mask without white.
    """

    background: str = "white"
    height: Size = knob(None)
    width: Size = knob(None)
    padding_mask_crop: Annotated[int, Ge(0)] | None = knob(None)

    def __call__(self, image: PictureInput, mask_image: PictureInput) -> Cropped:
        if self.padding_mask_crop is None:
            return Cropped(image, mask_image, WHOLE)
        picture = eight_bits(colours(_one("image", image), self.background))
        mask = eight_bits(mask_of(_one("mask_image", mask_image)))
        if picture.size != mask.size:
            raise UnfitValue(
                f"padding_mask_crop needs image and mask_image of one size, got {_size(picture)} and {_size(mask)}. "
                "Resize one."
            )
        width, height = self.width or picture.width, self.height or picture.height
        region = _region(np.asarray(mask.convert("L")), self.padding_mask_crop, width / height)
        return Cropped(
            *(_fitted(part.crop(region), width, height, inside=True) for part in (picture, mask)), region=region
        )


class ControlCropped(NamedTuple):
    """The crops of control pictures."""

    control_image: PictureInput


class CropControl(Block):
    """Crop control pictures as `CropToMask` crops the picture, so that they fit the crop that is painted.

    height, width: as in `CropToMask`. background: as in `ControlBlock`.

    Raises:
        ValueError: a control picture of another size than the picture.
    """

    background: str = "black"
    height: Size = knob(None)
    width: Size = knob(None)

    def __call__(self, control_image: PictureInput, image: PictureInput, region: Region) -> ControlCropped:
        if region == WHOLE:
            return ControlCropped(control_image)
        rows, columns = size_of(_one("image", image))
        width, height = self.width or columns, self.height or rows
        pictures = [eight_bits(colours(in_range(one), self.background)) for one in each_picture(control_image)]
        for one in pictures:
            if one.size != (columns, rows):
                raise ValueError(
                    f"padding_mask_crop needs image and control picture of one size, got {columns}x{rows} and "
                    f"{_size(one)}. Resize one."
                )
        return ControlCropped([_fitted(one.crop(region), width, height, inside=True) for one in pictures])


class PutBack(NamedTuple):
    """Whole pictures."""

    images: Images


class PutBackCrop(Block):
    """Put the painted crop back into its picture, where the mask is white. background: as in `ReadImage`."""

    background: str = "white"

    def __call__(self, images: Images, image: PictureInput, mask_image: PictureInput, region: Region) -> PutBack:
        if region == WHOLE:
            return PutBack(images)
        picture = eight_bits(colours(_one("image", image), self.background)).convert("RGB")
        mask = eight_bits(mask_of(_one("mask_image", mask_image))).convert("L")
        left, upper, right, lower = region
        whole: list[Images] = []
        for pixels in images:
            ground = Image.new("RGB", picture.size)
            ground.paste(_fitted(eight_bits(pixels), right - left, lower - upper, inside=False), (left, upper))
            whole.append(_pixels(Image.composite(ground, picture, mask)))
        return PutBack(torch.stack(whole).to(images.device))


def _region(mask: np.ndarray[tuple[int, int], np.dtype[np.uint8]], padding: int, wanted: float) -> Region:
    """The white part of the mask with pixels around it, of a ratio of width to height where the picture has room."""
    columns, rows = (np.flatnonzero(mask.max(axis)) for axis in (0, 1))
    if not len(rows):
        raise UnfitValue("mask_image is black, so there is nothing to crop to. Make the part to paint white.")
    height, width = mask.shape
    left, right = max(int(columns[0]) - padding, 0), min(int(columns[-1]) + 1 + padding, width)
    upper, lower = max(int(rows[0]) - padding, 0), min(int(rows[-1]) + 1 + padding, height)
    if (right - left) / (lower - upper) > wanted:
        upper, lower = _grown(upper, lower, (right - left) / wanted, height)
    else:
        left, right = _grown(left, right, (lower - upper) * wanted, width)
    return left, upper, right, lower


def _grown(low: int, high: int, wanted: float, room: int) -> tuple[int, int]:
    """An interval grown to a length on both sides, then moved, and at last cut, to lie inside 0 to `room`."""
    more = int(wanted - (high - low))
    low, high = low - more // 2, high + more - more // 2
    if high >= room:
        low, high = low - (high - room), room
    if low < 0:
        low, high = 0, high - low
    return low, min(high, room)


def _fitted(picture: Image.Image, width: int, height: int, *, inside: bool) -> Image.Image:
    """The picture at a size, not stretched: inside it with its edges repeated, or filling it with its middle part."""
    wider = width * picture.height - height * picture.width  # above 0: the size is wider than the picture
    if wider >= 0 if inside else wider <= 0:
        own_width, own_height = picture.width * height // picture.height, height
    else:
        own_width, own_height = width, picture.height * width // picture.width
    resized = picture.resize((own_width, own_height), Image.Resampling.LANCZOS)
    made = Image.new("RGB", (width, height))
    left, upper = width // 2 - own_width // 2, height // 2 - own_height // 2
    made.paste(resized, (left, upper))
    if upper > 0:
        for y, place in ((0, 0), (own_height, upper + own_height)):
            made.paste(resized.resize((width, upper), box=(0, y, width, y)), (0, place))
    if left > 0:
        for x, place in ((0, 0), (own_width, left + own_width)):
            made.paste(resized.resize((left, height), box=(x, 0, x, height)), (place, 0))
    return made


def _one(name: str, pictures: PictureInput) -> Picture:
    found = each_picture(pictures)
    if len(found) != 1:
        raise UnfitValue(f"padding_mask_crop needs one picture a call, got {len(found)} as {name}. Pass one.")
    return in_range(found[0])


def _pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
