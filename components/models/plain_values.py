"""The values of a config that others than its class read, before the class has checked it."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

_MOST = 2**20
"""No width, number of layers or side of a picture is larger."""
_LONGEST = 64
"""No list of levels is longer, and no name of a type."""


def plain_values(config: Mapping[str, Any]) -> Mapping[str, Any]:  # Any: JSON values
    """The entries that can be computed with: numbers up to 2**20, lists of counts, truth values, names of types, null.

    The others are left out, as if the config did not have them: its class refuses them when the model is made.
    """
    return {key: value for key, value in config.items() if _is_plain(key, value)}


def _is_plain(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return 0 < value <= _MOST
    if isinstance(value, float):
        return isfinite(value) and abs(value) <= _MOST
    if isinstance(value, str):
        return key.endswith(("_type", "_class_name")) and len(value) <= _LONGEST
    if isinstance(value, list | tuple):
        return 0 < len(value) <= _LONGEST and all(type(v) is int and 0 < v <= _MOST for v in value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return False
