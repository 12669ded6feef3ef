"""The sizes of values in memory."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})

_DEPTH = 4
"""Values inside values are counted up to here: a value of a user may hold itself."""


def value_bytes(value: Any, depth: int = _DEPTH) -> int:
    """The bytes of the tensors, arrays and pictures in a value: itself, or its items or fields. Functions hold none."""
    if type(value) in _PLAIN or not depth:
        return 0
    if hasattr(value, "element_size"):  # a tensor
        return value.numel() * value.element_size()
    if isinstance(value, tuple | list):
        return sum(value_bytes(item, depth - 1) for item in value)
    if isinstance(value, Mapping):
        return sum(value_bytes(item, depth - 1) for item in value.values())
    if hasattr(value, "getbands"):  # a picture
        return value.width * value.height * len(value.getbands())
    if is_dataclass(value) and not isinstance(value, type):
        return sum(value_bytes(getattr(value, name), depth - 1) for name in _names(type(value)))
    size = getattr(value, "nbytes", 0)  # an array
    return size if isinstance(size, int) else 0


@lru_cache(maxsize=256)
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))
