"""Read the file of an embedding: safetensors, pickles, and pictures that have one in a text or in their pixels."""

import base64
import binascii
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...graph.errors import LoadError, PictureError
from ...graph.json_text import JsonTextError, decoded, parse
from ...graph.limits import AboveLimit, check_limit, limit
from ..loading.open_tensors import check_pickle, open_tensors
from ..picture_files import read_picture_file
from ..storage.tensors import PICKLES, check_stored, read_pickle

PICTURES = (".png", ".webp", ".avif")
_TEXT = "sd-ti-embedding"
"""The text of a PNG in which A1111 stores an embedding: JSON in base64."""
_TENSOR = "TORCHTENSOR"
"""The mark of a tensor in this JSON: {"TORCHTENSOR": [[numbers]]}."""


def read_content(file: Path, *, allow_pickle: bool = False) -> object:
    """Read the content of an embedding's file: tensors in dicts and lists, or one tensor.

    Raises:
        LoadError: a damaged file, a pickle without `allow_pickle`, or a picture without an embedding.
    """
    if file.name.lower().endswith(PICTURES):
        return _of_picture(file)
    if file.name.endswith(PICKLES):
        check_pickle(file, allow_pickle)
        return _checked(_plain(read_pickle(file, [nn.ParameterDict])), file)
    stored = open_tensors([file])
    try:
        check_limit("adapter_tensors", len(stored.shapes()))
    except AboveLimit as error:
        raise LoadError(f"{file}: {error}") from None
    return {key: stored.read(key) for key in stored.shapes()}


def _plain(content: object) -> object:
    """The same with the dict of parameters that files of 2022 have as a dict. Only its attribute is read."""
    if not isinstance(content, dict):
        return content
    named = cast("dict[object, object]", content)
    return {
        key: vars(value).get("_parameters") if isinstance(value, nn.ParameterDict) else value
        for key, value in named.items()
    }


def _checked(content: object, file: Path, depth: int = 0, key: str = "the file") -> object:
    """The content of a pickle, after its tensors were compared with the size of the file."""
    if isinstance(content, Tensor):
        check_stored(file, key, content)
    elif depth < 8:
        parts = content.items() if isinstance(content, Mapping) else ()
        parts = enumerate(content) if isinstance(content, list | tuple) else parts
        for name, value in cast("Any", parts):
            _checked(value, file, depth + 1, str(name))
    return content


# ------------------------------------------------------------------------------------------------------- pictures
def _of_picture(file: Path) -> object:
    """The embedding that A1111 wrote into a picture."""
    try:
        picture = read_picture_file(file)
    except PictureError as error:
        raise LoadError(str(error)) from None
    text: object = getattr(picture, "text", {}).get(_TEXT)
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else _in_pixels(picture)
        if data is None:
            raise LoadError(
                f"{file}: is a picture without an embedding: no text {_TEXT!r}, and no data in its pixels. Use the "
                "file as it was saved; programs that change pictures remove the data."
            )
        check_limit("config_bytes", len(data))
        return _with_tensors(parse(decoded(data)))
    except (AboveLimit, JsonTextError, binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise LoadError(f"{file}: its embedding cannot be read ({error}). Use the file as it was saved.") from None


def _with_tensors(data: Any) -> Any:  # JSON values, and tensors in place of their marks
    if not isinstance(data, dict):
        return data
    named = cast("dict[str, Any]", data)
    if _TENSOR in named:
        return torch.tensor(named[_TENSOR], dtype=torch.float32)
    return {key: _with_tensors(value) for key, value in named.items()}


def _in_pixels(picture: Image.Image) -> bytes | None:
    """The data in the columns left and right of a picture, half a byte in the low bits of each colour; None for none.

    Between the two blocks and the picture is a black column. Each block is masked with one stream of numbers. The left
    block has the low half of each byte. All of it is compressed by zlib.
    """
    pixels = np.asarray(picture.convert("RGB"))
    lit = pixels.min(2) > 0
    rows, columns = np.flatnonzero(lit.max(1)), np.flatnonzero(lit.max(0))
    if not len(rows):
        return None
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    black = np.flatnonzero(low.sum((0, 2)) == 0)
    if len(black) < 2:
        return None
    left, right = low[:, : black[0]], low[:, black[-1] + 1 :]
    if left.shape != right.shape:
        return None
    mask = np.fromiter(_mask(left.size), np.uint8, left.size).reshape(left.shape) & 0x0F
    data = (((right ^ mask) << 4) | (left ^ mask)).tobytes()
    try:
        return zlib.decompressobj().decompress(data, limit("config_bytes") + 1)
    except zlib.error:
        return None


def _mask(count: int) -> Iterator[int]:
    """A1111's stream of numbers: a linear congruential generator (Numerical Recipes) from 0, modulo 255."""
    state = 0
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        yield state % 255
