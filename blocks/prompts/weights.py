"""Weights of pieces: checked, joined and written."""

from collections.abc import Iterable
from decimal import Decimal
from math import isfinite

from ...graph.errors import UnfitValue
from .rules import Part, Piece

_LARGEST = 3.4e38
"""A weight is a float32, and a larger number is infinite there."""


def joined(pieces: Iterable[Piece]) -> Part:
    """The pieces without empty ones; neighbours of equal weight are joined. UnfitValue for weights of infinite
    size.
    """
    texts: list[list[str]] = []
    weights: list[float] = []
    for text, weight in pieces:
        if not text:
            continue
        if not (isfinite(weight) and abs(weight) <= _LARGEST):
            raise UnfitValue(f"The weight of {text[:50]!r} is {weight:g}. Use fewer brackets, or smaller numbers.")
        if weights and weights[-1] == weight:
            texts[-1].append(text)
        else:
            texts.append([text])
            weights.append(weight)
    return tuple(Piece("".join(text), weight) for text, weight in zip(texts, weights, strict=True))


def weight_text(weight: float) -> str:
    """The number without an exponent, read as the same float."""
    return format(Decimal(repr(weight)), "f")
