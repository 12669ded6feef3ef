"""Picture files, opened in a few named formats and checked before Pillow decodes them. None starts a program."""

import io
import os
import re
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from PIL import Image

from ..graph.errors import PictureError
from ..graph.limits import AboveLimit, check_limit, limit
from ..registry import printable
from .storage.web import fetch, is_address

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
"""The formats of files that are read; AVIF and HEIF where Pillow has them. Of an animation the first frame is read."""
SECONDS = 60.0
"""The longest time for reading a picture from the web."""

PictureFile = str | Path | io.BufferedIOBase
"""A file, its address (http or https), or an open binary file."""

_LONGEST_NAME = 200
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
"""A marker of a JPEG file, but for restarts (D0 to D7). In data, 00 follows each FF."""
_SEGMENTS = 2**16
_TAGS = 2**16
_KINDS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each kind in TIFF (TIFF 6.0, section 2; 13 and 16 to 18 of later supplements)."""
EXIF_BYTES = 2**16
"""Exif data that is larger is not read. A JPEG file cannot have more, and each of its tags may name all of it."""


def name_of(file: PictureFile) -> str:
    """The name of a picture file in errors."""
    if not isinstance(file, str | Path):
        return "the open file"
    name = printable(str(file))
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def read_picture_file(file: PictureFile) -> Image.Image:
    """Read the first frame of a picture file, as it is stored.

    Raises:
        PictureError: it is missing, broken or no plain file, it is above a limit (`picture_bytes`, `picture_pixels`,
            `picture_scans`), or it has another format than `FORMATS`.
    """
    name = name_of(file)
    if isinstance(file, str) and is_address(file):
        try:
            file = io.BytesIO(fetch(file, max_bytes=limit("picture_bytes"), seconds=SECONDS))
        except OSError as error:
            raise PictureError(str(error)) from None
    if not Image.OPEN.keys() >= set(FORMATS):
        Image.init()
    formats = [known for known in FORMATS if known in Image.OPEN]
    try:
        with _opened(file) as data:
            _check(data)
            with Image.open(data, formats=formats) as picture:
                check_limit("picture_pixels", picture.width * picture.height)
                picture.load()
                return picture
    except Image.UnidentifiedImageError:
        shown = ", ".join(formats)
        raise PictureError(
            f"{name}: is no picture that can be read. Pass a file in one of the formats {shown}."
        ) from None
    except (AboveLimit, _Refused) as error:
        raise PictureError(f"{name}: {error}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow has a limit of its own
        most = f"{limit('picture_pixels'):,}"
        raise PictureError(
            f"{name}: has more pixels than Pillow reads, and the limit is {most}. Make it smaller."
        ) from None
    except OSError as error:
        raise PictureError(f"{name}: cannot be read ({printable(error.strerror or str(error))}).") from None
    except Exception as error:  # the readers of Pillow raise errors of many classes for a broken file
        text = printable(str(error) or type(error).__name__)
        raise PictureError(f"{name}: is broken ({text}). Save the picture again.") from error


class _Refused(Exception):
    """A file that is not opened, or not decoded. The text says which kind it is."""


@contextmanager
def _opened(file: PictureFile) -> Generator[BinaryIO]:
    """The file, open and able to seek. A pipe, a device or a folder is refused without being read."""
    if isinstance(file, io.BufferedIOBase):
        yield file if file.seekable() else io.BytesIO(file.read(limit("picture_bytes") + 1))  # pyright: ignore[reportReturnType]  typeshed's BinaryIO is not the base of these
        return
    if "://" in str(file) or str(file).startswith("data:"):
        raise _Refused("only http and https addresses can be read. Pass one, or the path of a file.")
    try:
        path = Path(file).expanduser()
        status = path.stat()
    except (ValueError, RuntimeError) as error:  # a zero byte, half of a surrogate pair, the home of nobody
        raise _Refused(f"is no path of a file ({printable(str(error))}). Pass another.") from None
    _check_plain(status.st_mode)
    with open(path, "rb", opener=_without_waiting) as data:
        _check_plain(os.fstat(data.fileno()).st_mode)
        yield data


def _check_plain(mode: int) -> None:
    if not S_ISREG(mode):
        raise _Refused("is not a plain file. Pass the path of a picture file.")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe too, which would else wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


# ------------------------------------------------------------------------------------------------ before decoding
def _check(data: BinaryIO) -> None:
    """Refuse a file that is too large, or small and made to cost much."""
    check_limit("picture_bytes", data.seek(0, os.SEEK_END))
    data.seek(0)
    head = data.read(4)
    try:
        if head[:2] == b"\xff\xd8":
            _check_jpeg(head + data.read())
        elif head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            _check_tiff(data)
    except struct.error:
        raise _Refused("is broken (it ends in the middle). Save the picture again.") from None
    data.seek(0)


def _check_jpeg(data: bytes) -> None:
    """Count scans, since each is decoded over the whole picture, and Exif data, which Pillow joins."""
    at, scans, exif = 2, 0, 0
    for _ in range(_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or (marker := found[1][0]) == 0xD9:  # its end
            break
        at = found.end()
        if marker in (0x01, 0xD8):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        scans += marker == 0xDA
        if marker == 0xE1 and data[at + 2 : at + 6] == b"Exif":
            exif += length
        at += max(length, 2)
    else:
        raise _Refused(f"is broken (it has more than {_SEGMENTS} segments). Save the picture again.")
    check_limit("picture_scans", scans)
    if exif > 2 * EXIF_BYTES:
        raise _Refused(f"has {exif} bytes of Exif data, and the limit is {2 * EXIF_BYTES}. Save the picture without.")


def _check_tiff(data: BinaryIO) -> None:
    """Compare the sizes that tags state: data that several tags share is read for each, and a tile is read whole."""
    size = data.seek(0, os.SEEK_END)
    stated, tile = 0, [1, 1]
    for tag, kind, count, value in _tiff_tags(data):
        stated += _KINDS.get(kind, 0) * count
        if tag in (322, 323):  # its width and its height
            tile[tag - 322] = value
    if stated > size:
        raise _Refused(f"is broken (its tags have {stated} bytes, and the file has {size}). Save the picture again.")
    check_limit("picture_pixels", tile[0] * tile[1])


def _tiff_tags(data: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Number, kind, count and value of each tag of the first picture (TIFF 6.0, section 2; BigTIFF)."""
    data.seek(0)
    head = data.read(16)
    order, is_big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
    number, entry, at = (
        (struct.Struct(f"{order}Q"), struct.Struct(f"{order}HHQQ"), struct.unpack_from(f"{order}Q", head, 8)[0])
        if is_big
        else (struct.Struct(f"{order}H"), struct.Struct(f"{order}HHII"), struct.unpack_from(f"{order}I", head, 4)[0])
    )
    data.seek(min(at, 2**62))
    (count,) = number.unpack(data.read(number.size))
    if count > _TAGS:
        raise _Refused(f"is broken (it has {count} tags). Save the picture again.")
    for tag, kind, n, value in entry.iter_unpack(data.read(count * entry.size)):
        short = order == ">" and kind == 3  # a short value is in the first bytes of its field
        yield tag, kind, n, value >> (8 * (entry.size - 4) // 2 - 16) if short else value
