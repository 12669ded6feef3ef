"""Texts in picture files: the record of a run, and the `parameters` of A1111's web UI.

PNG has them as text chunks. JPEG and WebP have them in Exif data: the record in MakerNote, packed; the parameters in
UserComment.
"""

import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from ..graph.errors import PictureError, UnfitValue
from ..graph.limits import AboveLimit, check_limit, limit
from .picture_files import EXIF_BYTES

RECORD = "sfumato"
PARAMETERS = "parameters"
"""The names of the texts, as PNG has them."""

FORMATS_WITH_TEXTS = ("PNG", "JPEG", "WEBP")

_EXIF, _USER_COMMENT, _MAKER_NOTE = ExifTags.IFD.Exif, ExifTags.Base.UserComment, ExifTags.Base.MakerNote
_MARK = b"sfumato\0"
_UNICODE = b"UNICODE\0"
_ASCII = b"ASCII\0\0\0"
_ROOM = 65_533 - 6  # a segment of a JPEG file, without its length and its mark


def with_texts(kind: str, texts: Mapping[str, str], params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of Pillow's `save` that write these texts beside what `params` write.

    kind: the format, of `FORMATS_WITH_TEXTS`. texts: by their names in PNG; the record is in ASCII.

    Raises:
        UnfitValue: texts that are too long for the format.
    """
    for text in texts.values():
        try:
            check_limit("record_bytes", len(text.encode()))
        except AboveLimit as error:
            raise UnfitValue(f"The text {error}") from None
    if kind == "PNG":
        info = PngInfo()
        info.chunks = list(params["pnginfo"].chunks) if params.get("pnginfo") is not None else []
        for name, text in texts.items():
            info.add_text(name, text, zip=name == RECORD)
        return {**params, "pnginfo": info}
    exif = _as_exif(params.get("exif"))
    own = exif.get_ifd(_EXIF)
    if RECORD in texts:
        own[_MAKER_NOTE] = _MARK + zlib.compress(texts[RECORD].encode("ascii"), 9)
    if PARAMETERS in texts:
        own[_USER_COMMENT] = _UNICODE + texts[PARAMETERS].encode("utf-16-be", "replace")
    if (size := len(exif.tobytes())) > _ROOM:
        raise UnfitValue(f"The texts have {size} bytes, and {kind} has room for {_ROOM}. Save the picture as PNG.")
    return {**params, "exif": exif}


def texts_of(picture: Image.Image) -> dict[str, str]:
    """The texts of a picture that was read from a file, by their names in PNG; those that it has.

    Raises:
        PictureError: a record that is broken, or unpacks to more than the limit `record_bytes`.
    """
    found = {name: text for name in (RECORD, PARAMETERS) if isinstance(text := picture.info.get(name), str)}
    exif = _exif_of(picture)
    note, comment = exif.get(_MAKER_NOTE), exif.get(_USER_COMMENT)
    if RECORD not in found and isinstance(note, bytes) and note.startswith(_MARK):
        found[RECORD] = _unpacked(note[len(_MARK) :])
    if PARAMETERS not in found and (text := _comment(comment)):
        found[PARAMETERS] = text
    return found


def _exif_of(picture: Image.Image) -> Mapping[int, Any]:  # Any: values of tags
    """The tags of the Exif part; {} if there is none, or it is broken or too large."""
    if len(picture.info.get("exif", b"")) > EXIF_BYTES + 6 or "Raw profile type exif" in picture.info:
        return {}
    with suppress(Exception):  # broken Exif data; Pillow raises errors of many classes, and the pixels are fine
        return picture.getexif().get_ifd(_EXIF)
    return {}


def _as_exif(exif: Any) -> Image.Exif:  # Any: what Pillow's savers take
    if isinstance(exif, Image.Exif):
        return exif
    made = Image.Exif()
    if exif:
        made.load(exif)
    return made


def _unpacked(data: bytes) -> str:
    try:
        unpacking = zlib.decompressobj()
        text = unpacking.decompress(data, limit("record_bytes") + 1)
        check_limit("record_bytes", len(text), whole=False)
        return text.decode("ascii")
    except AboveLimit as error:
        raise PictureError(f"The record in the picture {error}") from None
    except (zlib.error, UnicodeDecodeError) as error:
        raise PictureError(f"The record in the picture is broken ({error}).") from None


def _comment(value: Any) -> str | None:  # Any: a value of a tag
    """The text of a UserComment: 8 bytes name its encoding (Exif 2.32, table 9)."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return None
    mark, data = value[:8], value[8:]
    if mark == _UNICODE:  # big-endian where A1111 wrote it; others write the order of their machine
        little = data.startswith(b"\xff\xfe") or data[1::2].count(0) > data[0::2].count(0)
        text = data.decode("utf-16-le" if little else "utf-16-be", "replace")
    elif mark == _ASCII or not any(mark):
        text = data.decode("utf-8", "replace")
    else:
        text = value.decode("utf-8", "replace")
    return text.removeprefix("\ufeff").strip("\0") or None
