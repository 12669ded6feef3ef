"""Margins around a picture, which outpainting fills."""

import torch
from PIL import Image

from ....graph.errors import GraphFileError
from ....graph.limits import AboveLimit, check_limit
from .values import Padding

GREY = (128, 128, 128)
"""The colour of the margins."""


def padded(picture: Image.Image, pad: Padding) -> Image.Image:
    """The picture with grey margins. GraphFileError where it has more pixels than the limit `picture_pixels`."""
    width, height = picture.size[0] + pad.left + pad.right, picture.size[1] + pad.top + pad.bottom
    try:
        check_limit("picture_pixels", width * height)
    except AboveLimit as error:
        raise GraphFileError(f"The workflow's padded picture {error}") from None
    made = Image.new("RGB", (width, height), GREY)
    made.paste(picture.convert("RGB"), (pad.left, pad.top))
    return made


def margins(picture: Image.Image, pad: Padding) -> Image.Image:
    """The mask of the margins: white there, and inside it falls to black with the square of the distance."""
    width, height = picture.size
    inside, strip = torch.zeros(height, width), pad.feathering
    if 0 < 2 * strip < min(width, height):
        rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
        sides = (pad.top, rows), (pad.bottom, height - rows), (pad.left, columns), (pad.right, width - columns)
        for margin, distance in sides:
            if margin:
                inside = torch.maximum(inside, ((strip - distance) / strip).clamp(min=0) ** 2)
    whole = torch.ones(height + pad.top + pad.bottom, width + pad.left + pad.right)
    whole[pad.top : pad.top + height, pad.left : pad.left + width] = inside
    return Image.fromarray((whole * 255).round().byte().numpy())
