"""Values that come from outside, checked against a port's type: plain ones by pydantic, strictly, others by class."""

import collections.abc
import reprlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NewType, get_args, get_origin

from .typing import is_array, port_of, rank, type_text, union_members, untagged

_PLAIN = (bool, int, float, str, bytes, type(None), Path)
_CONTAINERS = (list, tuple, dict, set, frozenset, collections.abc.Sequence, collections.abc.Mapping)


_LONGEST = 2**16
"""The longest range or array that is read as a list."""


def value_text(value: Any) -> str:
    """A value in an error: an array by its shape, others short."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return reprlib.repr(value)


class Unfit(ValueError):
    """A value that does not fit; the text has the need, and the reason why it does not fit."""


def fitted(value: Any, hint: Any) -> Any:
    """The value as the type wants it: an int becomes a float, a list a tuple, a numpy scalar a Python one.

    Raises `Unfit`.
    """
    reasons: list[tuple[bool, str]] = []
    for arm in sorted(union_members(hint), key=lambda arm: not _like(value, arm)):  # 1 stays 1 in `float | int`
        try:
            return _fit(value, arm)
        except Unfit as error:
            reasons.append((_like(value, arm), str(error)))
    # The text of a union lists its members; the reason is for the member that the value is like.
    why = [reason for like, reason in reasons if reason and (like or len(reasons) == 1)]
    raise Unfit(f"takes {type_text(hint)}{f' ({why[0]})' if why else ''}")


def _like(value: Any, arm: Any) -> bool:
    """Whether a value is of exactly this type; a list is as good as a tuple, and both are sequences."""
    base = untagged(arm)
    kind = get_origin(base) or base
    return type(value) is kind or (kind in (tuple, collections.abc.Sequence) and type(value) in (list, tuple))


def _fit(value: Any, arm: Any) -> Any:
    base = untagged(arm)
    if type(value) is arm and arm in (bool, int, str):
        return value
    if isinstance(base, NewType):
        return fitted(value, base.__supertype__)
    if base is Any or base is object:
        return value
    if _is_plain(base):
        return _by_pydantic(value, arm, base)
    if is_array(base):
        return _array(value, base)
    origin = get_origin(base) or base
    if origin in _CONTAINERS and get_args(base):
        if isinstance(value, str | bytes):
            raise Unfit("")  # a text is a sequence of texts, but whoever passes one means the text
        return _items(value, base, origin)
    if origin is collections.abc.Callable:
        if not callable(value):
            raise Unfit("")
        return value
    return _instance(value, origin)


def _is_plain(base: Any) -> bool:
    if base in _PLAIN or get_origin(base) is Literal:
        return True
    args = [a for a in get_args(base) if a is not Ellipsis]
    return (get_origin(base) in _CONTAINERS) and all(
        _is_plain(untagged(a)) or (len(union_members(a)) > 1 and all(_is_plain(untagged(x)) for x in union_members(a)))
        for a in args
    )


def _items(value: Any, base: Any, origin: type) -> Any:
    """A container of things that pydantic does not know, such as a list of images."""
    if origin in (collections.abc.Mapping, dict) or not isinstance(value, list | tuple):
        return _instance(value, origin)
    kinds = get_args(base)
    if origin is tuple and Ellipsis not in kinds:
        if len(kinds) != len(value):
            raise Unfit(f"{len(kinds)} of them")
        return tuple(map(fitted, value, kinds))
    items = [fitted(v, kinds[0]) for v in value]
    return tuple(items) if origin is tuple else items


def _instance(value: Any, cls: Any) -> Any:
    try:
        fits = isinstance(value, cls)
    except TypeError:  # a Protocol that has no instance check at run time
        return value
    if not fits:
        raise Unfit("")
    return value


def _array(value: Any, base: Any) -> Any:
    array, dims = _instance(value, base.array_type), rank(base)
    if dims is not None and len(array.shape) != dims:
        raise Unfit(f"with the dimensions {base.dim_str}")
    return array


def _by_pydantic(value: Any, arm: Any, base: Any) -> Any:
    from pydantic import ValidationError

    value = _bare(value)
    if (get_origin(base) or base) is tuple and isinstance(value, list):
        value = tuple(value)
    if port_of(arm) is not None:
        arm = base  # the tag is ours
    try:
        fit = _adapter(arm).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" for part in first["loc"])
        expected = (
            first["type"].endswith(("_type", "_of")) and not where
        )  # "should be a valid string" only repeats the type
        raise Unfit("" if expected else f"{where}{': ' if where else ''}{first['msg'].lower()}") from None
    if _has_nan(fit):
        raise Unfit("nan is not a number")
    return fit


def _has_nan(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_nan, value))
    return isinstance(value, float) and value != value


def _bare(value: Any) -> Any:
    """A numpy scalar as a Python one, also inside a list or tuple; a range or an array of one dimension as a list."""
    if type(value) in (list, tuple):
        return type(value)(map(_bare, value))
    if isinstance(value, range):
        return list(value) if len(value) <= _LONGEST else value
    if type(value).__module__ != "numpy" or len(shape := getattr(value, "shape", (0, 0))) > 1:
        return value
    return value.tolist() if not shape or shape[0] <= _LONGEST else value


@lru_cache(maxsize=1024)
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(hint, config=ConfigDict(strict=True))
