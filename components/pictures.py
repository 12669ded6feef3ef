"""Pictures and masks of every kind in one form. All that the library reads as a picture goes through here.

The form is a `Picture`: upright, of one of a few modes, or a float tensor.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor
from torch import Tensor

from ..graph.errors import UnfitValue
from .picture_files import EXIF_BYTES, PictureFile, name_of, read_picture_file

AnyPicture = Image.Image | np.ndarray[Any, Any] | Tensor  # Any: shapes and dtypes are checked when it is read
PictureInput = AnyPicture | PictureFile | Sequence[AnyPicture | PictureFile]
"""A PIL image, a file or an address, an array (rows, columns, channels), a tensor (channels, rows, columns), or a list.

Floats go from 0 to 1, uint8 from 0 to 255, uint16 from 0 to 65535.
"""
Picture = Image.Image | Tensor
"""A picture in one form, upright. A PIL image has the mode 1, L, RGB, RGBA, or F with values from 0 to 1.

A tensor is (1 or 3, rows, columns) with floats, which `in_range` checks to be from 0 to 1.
"""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns a stored picture upright, by its orientation tag (Exif 2.32, table 4, tag 274)."""
_ORIENTATION = 274
_NUMBERS = tuple(map(np.dtype, ("bool", "uint8", "uint16", ">u2", "float16", "float32", ">f4", "float64", ">f8")))


# ------------------------------------------------------------------------------------------------ one form
def each_picture(image: PictureInput) -> list[Picture]:
    """The single pictures of an input: of files, batches and lists too.

    Raises:
        PictureError: a file that is missing or broken, or of another format than `FORMATS`.
        UnfitValue: an empty list, or a picture of another shape, mode or dtype.
    """
    if isinstance(image, str | Path | io.BufferedIOBase):
        return [open_picture(image)]
    if isinstance(image, Image.Image):
        return [_simple(image)]
    if isinstance(image, Tensor | np.ndarray):
        return [_from_array(one) for one in (image if image.ndim == 4 else [image])]
    if not len(image):
        raise UnfitValue("There is no picture: the list is empty. Give one for all prompts, or one each.")
    return [one for part in image for one in each_picture(part)]


def size_of(picture: Picture) -> tuple[int, int]:
    """Rows and columns."""
    if isinstance(picture, Tensor):
        return picture.shape[1], picture.shape[2]
    return picture.height, picture.width


def open_picture(file: PictureFile) -> Image.Image:
    """Read a picture from a file, an address or an open binary file.

    Raises:
        PictureError: it is missing or broken, above a limit, or has another format than `FORMATS`.
        ValueError: a mode that cannot be read.
    """
    picture = read_picture_file(file)
    try:
        return _simple(picture)
    except ValueError as error:
        raise UnfitValue(f"{name_of(file)}: {error}") from None


def _simple(picture: Image.Image) -> Image.Image:
    """The picture upright, in a mode of `Picture`."""
    if not picture.width * picture.height:
        raise UnfitValue(f"A picture needs pixels, got a size of {picture.width}x{picture.height}.")
    picture.load()  # a TIFF becomes upright here
    if (turn := _UPRIGHT.get(_orientation(picture))) is not None:
        upright = picture.transpose(turn)
        upright.info = {key: value for key, value in picture.info.items() if key == "transparency"}  # drops the tag
        picture = upright
    mode = picture.mode
    if mode in ("La", "LA", "PA", "RGBa", "RGBA") or (
        "transparency" in picture.info and mode in ("1", "L", "P", "RGB")
    ):
        rgba = (picture.convert("LA") if mode == "La" else picture).convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            return rgba
        return rgba.getchannel("R") if mode in ("1", "L", "La", "LA") else rgba.convert("RGB")
    if mode in ("1", "L", "RGB", "F"):
        return picture
    if mode == "I" or mode.startswith("I;16"):
        numbers = np.asarray(picture.convert("I"), dtype=np.float32)
        low, high = float(numbers.min()), float(numbers.max())
        if low < 0 or high > 65535:
            raise UnfitValue(f"A picture of mode {mode} needs values from 0 to 65535, got {low:g} to {high:g}.")
        return Image.fromarray(numbers / 65535)
    try:
        return picture.convert("RGB")
    except (ValueError, OSError):
        raise UnfitValue(f"A picture of mode {mode} cannot be read. Pass picture.convert('RGB').") from None


def _orientation(picture: Image.Image) -> int:
    sizes = len(picture.info.get("exif", b"")), len(picture.info.get("Raw profile type exif", "")) // 2
    if max(sizes) > EXIF_BYTES + 6:
        return 1
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken Exif data; Pillow raises errors of many classes, and the pixels are fine
        return 1


def _from_array(picture: np.ndarray[Any, Any] | Tensor) -> Picture:
    """The array or tensor as floats; whole numbers are divided by their largest value. With alpha, a PIL image."""
    pixels = picture
    if isinstance(pixels, np.ndarray) and pixels.dtype in _NUMBERS:
        # a copy in native order: torch takes no negative strides, and warns of arrays that cannot be written
        pixels = torch.from_numpy(np.array(pixels, dtype=pixels.dtype.newbyteorder("="), order="C"))
        pixels = pixels.movedim(-1, 0) if pixels.ndim == 3 else pixels
    if isinstance(pixels, Tensor):
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        latents = isinstance(picture, Tensor) and picture.is_floating_point()  # so are four channels of them
        channels = (1, 3) if latents else (1, 2, 3, 4)
        largest = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}.get(pixels.dtype)
        if pixels.ndim == 3 and pixels.shape[0] in channels and pixels.numel():
            pixels = pixels.float() / largest if largest else pixels
            if pixels.is_floating_point():
                return pixels if pixels.shape[0] in (1, 3) else _simple(eight_bits(in_range(pixels)))
    raise UnfitValue(_misfit(picture))


def _misfit(picture: np.ndarray[Any, Any] | Tensor) -> str:
    shape, got = tuple(picture.shape), f"{type(picture).__name__} of shape {tuple(picture.shape)} and {picture.dtype}"
    text = (
        "A picture needs to be a PIL image, a tensor (channels, rows, columns) or an array (rows, columns, channels), "
        f"with 1 or 3 channels and floats from 0 to 1, uint8 or uint16, got {got}."
    )
    if isinstance(picture, Tensor) and len(shape) == 3 and shape[0] > 3:
        return f"{text} Latents are no picture: pass them as image_latents."
    if isinstance(picture, np.ndarray) and len(shape) == 3 and shape[0] in (1, 3):
        return f"{text} Move its channels to the end: numpy.moveaxis(picture, 0, -1)."
    if "int" in str(picture.dtype):
        return f"{text} Convert 0 to 255 to uint8, and a mask of 0 and 1 to bool."
    return text


# ------------------------------------------------------------------------------------------------ colours and masks
def in_range(picture: Picture) -> Picture:
    """The same picture. Raise UnfitValue if it has values outside 0 to 1."""
    if isinstance(picture, Tensor) or picture.mode == "F":
        values = picture if isinstance(picture, Tensor) else torch.from_numpy(np.array(picture))
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # so written, NaN is refused too
            raise UnfitValue(f"A picture needs values from 0 to 1, got {low:g} to {high:g}.")
    return picture


def colours(picture: Picture, background: str = "white") -> Picture:
    """The picture in red, green and blue, without alpha: transparent pixels show the background.

    background: a colour by name or as "#rrggbb".

    Raises:
        UnfitValue: no such colour.
    """
    ground = ground_colour(background)
    if isinstance(picture, Tensor):
        return picture.expand(3, *picture.shape[1:])
    if picture.mode == "RGBA":
        return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture).convert("RGB")
    return picture if picture.mode == "F" else picture.convert("RGB")


def eight_bits(picture: Picture) -> Image.Image:
    """The picture as a PIL image of 8 bits a channel."""
    if isinstance(picture, Tensor):
        return Image.fromarray(picture.movedim(0, -1).squeeze(-1).float().mul(255).round().byte().cpu().numpy())
    return eight_bits(torch.from_numpy(np.array(picture))[None]) if picture.mode == "F" else picture


def ground_colour(background: str) -> tuple[int, int, int]:
    """The colour in red, green and blue, from 0 to 255. Raise UnfitValue for one that is unknown or transparent."""
    with suppress(ValueError):
        colour = ImageColor.getrgb(background)
        if len(colour) == 3:
            return colour
    raise UnfitValue(f"background needs a colour such as 'white' or '#808080', got {background!r}.")


def mask_of(picture: Picture) -> Picture:
    """The picture as a mask: white where it is white.

    Where it has alpha and its visible part has one colour, the alpha is the mask: opaque is white. Otherwise what is
    transparent is black.
    """
    if isinstance(picture, Tensor):
        red, green, blue = picture.expand(3, *picture.shape[1:])
        if torch.equal(red, green) and torch.equal(red, blue):
            return red[None]
        return (0.299 * red + 0.587 * green + 0.114 * blue)[None]  # ITU-R BT.601, as Pillow
    if picture.mode != "RGBA":
        return picture
    alpha = picture.getchannel("A")
    visible = np.asarray(picture)[np.asarray(alpha) > 0, :3]
    if (visible == visible[:1]).all():
        return alpha
    return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("L")
