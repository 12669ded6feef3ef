"""The vocabulary of a SentencePiece model (`spiece.model`), read from its protocol buffer without further packages."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

from ...graph.errors import LoadError

_UNIGRAM = 1
_CONTROL, _USER_DEFINED = 3, 4


class Piece(NamedTuple):
    """One entry of the vocabulary: its text (a space is ▁), its log probability, and whether it stands for itself."""

    text: str
    score: float
    control: bool
    user_defined: bool


class SentencePieces(NamedTuple):
    """A Unigram model (Kudo 2018): pieces by id, and the table that texts are normalised with (b"" for none)."""

    pieces: tuple[Piece, ...]
    charsmap: bytes


def read_sentencepieces(path: Path) -> SentencePieces:
    """The model in a file. LoadError where it is damaged, or of another kind than Unigram.

    Field numbers are those of `sentencepiece_model.proto`: ModelProto has pieces in 1 (text 1, score 2, kind 3), the
    trainer's settings in 2 (model kind 3) and the normaliser in 3 (table 2).
    """
    pieces: list[Piece] = []
    charsmap, kind = b"", _UNIGRAM
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                said = dict(_fields(_message(value)))
                [score] = struct.unpack("<f", cast("bytes", said.get(2, bytes(4))))
                text, role = _message(said.get(1, b"")).decode(), said.get(3, 1)
                pieces.append(Piece(text, score, role == _CONTROL, role == _USER_DEFINED))
            elif number == 2:
                kind = dict(_fields(_message(value))).get(3, _UNIGRAM)
            elif number == 3:
                charsmap = _message(dict(_fields(_message(value))).get(2, b""))
    except (ValueError, struct.error) as error:
        raise LoadError(f"{path}: no SentencePiece model ({error}). Fetch it again.") from error
    if kind != _UNIGRAM or not pieces:
        raise LoadError(f"{path}: came {len(pieces)} pieces of model_type {kind}, wanted a Unigram vocabulary (1).")
    return SentencePieces(tuple(pieces), charsmap)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Numbers and values of one message: integers, four or eight bytes, or the bytes of what is inside."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(data, place)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {place}")
        if place + length > len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a field")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        if place >= len(data):
            raise ValueError(f"it ends at byte {len(data)}, inside a number")
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value
