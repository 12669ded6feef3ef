"""Read the vocabulary of a SentencePiece model (`spiece.model`) from its protocol buffer, without a package for it."""

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, cast

from ...graph.errors import LoadError
from ...graph.limits import check_limit

_UNIGRAM = 1
_CONTROL, _USER_DEFINED = 3, 4
_KEPT_BYTES = 2 * 2**20
"""A model of more bytes is not kept: that of T5 has 0.8 MB."""


class Piece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    """Spaces are written ▁."""
    score: float
    """Its log probability."""
    control: bool
    """Whether it is a control token, which no text contains."""
    user_defined: bool
    """Whether it is a token that is never split."""


class SentencePieces(NamedTuple):
    """A Unigram model (Kudo 2018)."""

    pieces: tuple[Piece, ...]
    """By id."""
    charsmap: bytes
    """The table of normalised characters; b"" for none."""


def read_sentencepieces(path: Path) -> SentencePieces:
    """Read a model. LoadError if the file is damaged or the model is not a Unigram model."""
    try:
        check_limit("pieces_bytes", path.stat().st_size)
        data = path.read_bytes()
        read, kind = _parsed(data) if len(data) <= _KEPT_BYTES else _parsed.__wrapped__(data)
    except (ValueError, struct.error) as error:
        raise LoadError(f"{path}: is not a SentencePiece model ({error}). Fetch it again.") from error
    if kind != _UNIGRAM or not read.pieces:
        found = f"{len(read.pieces)} pieces of model_type {kind}"
        raise LoadError(f"{path}: needs a Unigram vocabulary (model_type 1), got {found}.")
    return read


@lru_cache(maxsize=1)
def _parsed(data: bytes) -> tuple[SentencePieces, int | bytes]:
    """A model, and its kind. The last one is kept, since most programs read the vocabulary of T5 again and again.

    Field numbers are those of `sentencepiece_model.proto`: ModelProto has pieces in 1 (text 1, score 2, kind 3), the
    trainer's settings in 2 (model kind 3) and the normaliser in 3 (table 2).
    """
    pieces: list[Piece] = []
    charsmap, kind = b"", cast("int | bytes", _UNIGRAM)
    for number, value in _fields(data):
        if number == 1:
            check_limit("pieces", len(pieces) + 1, whole=False)
            entry = dict(_fields(_message(value)))
            [score] = struct.unpack("<f", cast("bytes", entry.get(2, bytes(4))))
            text, role = _message(entry.get(1, b"")).decode(), entry.get(3, 1)
            pieces.append(Piece(text, score, role == _CONTROL, role == _USER_DEFINED))
        elif number == 2:
            kind = dict(_fields(_message(value))).get(3, _UNIGRAM)
        elif number == 3:
            charsmap = _message(dict(_fields(_message(value))).get(2, b""))
    return SentencePieces(tuple(pieces), charsmap), kind


def check_sentencepieces(path: Path) -> None:
    """Raise LoadError if a file is no vocabulary of SentencePiece, of any kind of model."""
    try:
        pieces = [dict(_fields(_message(value))) for number, value in _fields(path.read_bytes()) if number == 1]
    except ValueError as error:
        raise LoadError(f"{path}: is not a SentencePiece model ({error}). Fetch it again.") from error
    if not pieces:
        raise LoadError(f"{path}: is not a SentencePiece model (it has no pieces). Fetch it again.")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The field numbers and values of one message: integers, 4 or 8 bytes, or the bytes of a nested message."""
    position = 0
    count = 0
    while position < len(data):
        check_limit("pieces", count := count + 1, whole=False)
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + length > len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a field")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and the position after it."""
    value = shift = 0
    while True:
        if position >= len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a number")
        byte = data[position]
        if shift > 63:
            raise ValueError(f"a number at byte {position} has more than 64 bits")
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a message was expected, and a number found")
    return value
