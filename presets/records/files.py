"""Picture files with records: their formats, and how a run's pictures are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP",
}  # fmt: skip
"""The formats by the suffixes of files."""
_HOW: Mapping[str, Mapping[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}  # what Pillow's savers take


def write_picture(picture: Any, path: Path, *, record: bool, private: Sequence[str]) -> None:  # a PIL image
    """Write a picture, whole or not at all. record: whether the file gets the record of the run, without the `private`
    inputs.

    SaveError if it cannot be written.
    """
    from ...graph.saving import saving_file  # here, and below: commands read FORMATS before they import torch
    from .picture import Picture

    kind = FORMATS[path.suffix.lower()]
    how: dict[str, Any] = {"record": record, "private": private} if isinstance(picture, Picture) else {}
    with saving_file(path) as draft:
        picture.save(draft, format=kind, **_HOW.get(kind, {}), **how)


def as_pictures(images: Any) -> Sequence[Any]:  # PIL images
    """A graph's output `images` as PIL images. A tensor holds pixels from 0 to 1."""
    if isinstance(images, list | tuple):
        return images
    from ...blocks.decode.images import FinishImages

    return FinishImages()(images).images
