"""Text to values: read the text of a command line as the type of its input.

Nothing is refused here. Text that cannot be read stays text, and the graph refuses it with the same error as for any
caller.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..graph.typing import union_members, untagged

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")
_NONE = ("none", "null")


def parsed(text: str, hint: Any) -> Any:  # Any: a type form; a value of it, or the text
    """The value that `text` says for a type: a number, true or false, none, a picture's path, or a list as JSON.

    >>> parsed("30", int), parsed("none", int | None), parsed("yes", bool), parsed("[1, 2]", int | list[int])
    (30, None, True, [1, 2])
    >>> parsed("a red apple", str), parsed("many", int)
    ('a red apple', 'many')
    """
    kinds = [untagged(arm) for arm in union_members(hint)]
    word = text.strip().lower()
    if type(None) in kinds and word in _NONE:
        return None
    if bool in kinds and word in (*_TRUE, *_FALSE):
        return word in _TRUE
    for kind in (int, float):
        if kind in kinds:
            with suppress(ValueError):
                return kind(text)
    for kind in kinds:
        if get_origin(kind) is Literal and str(get_args(kind)[0]) == text:
            return get_args(kind)[0]
    if any(_is_picture(kind) for kind in kinds):
        from ..components.pictures import open_picture

        return open_picture(text)
    if word.startswith(("[", "{")) and any(get_origin(kind) or kind in (list, tuple, dict, Any) for kind in kinds):
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    return _plain(text) if Any in kinds or object in kinds else text


def takes_picture(hint: Any) -> bool:  # Any: a type form
    """Whether a picture may be given where this type is wanted."""
    return any(_is_picture(untagged(arm)) for arm in union_members(hint))


def name_and_config(text: str) -> tuple[str, dict[str, str]]:
    """`NAME:key=value,key=value` in parts. A comma inside brackets belongs to its value. ValueError if it has no `=`.

    >>> name_and_config("euler:use_karras_sigmas=true,sigmas=[3, 1]")
    ('euler', {'use_karras_sigmas': 'true', 'sigmas': '[3, 1]'})
    """
    name, _, rest = text.partition(":")
    config: dict[str, str] = {}
    for piece in _pieces(rest):
        key, equals, value = piece.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"{text!r}: {piece.strip()!r} has no value. Write {name}:key=value,key=value.")
        config[key.strip()] = value.strip()
    return name.strip(), config


def parsed_config(config: Mapping[str, str], cls: type) -> dict[str, Any]:  # values of the types of its fields
    """The config with each value read by the type of the field of that name; an unknown one stays text."""
    hints = get_type_hints(cls, include_extras=True)
    return {key: parsed(value, hints[key]) if key in hints else value for key, value in config.items()}


def _is_picture(kind: Any) -> bool:  # Any: a type form; PIL is imported only by those who have one
    return getattr(kind, "__module__", "") == "PIL.Image" and kind.__name__ == "Image"


def _plain(text: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    return text


def _pieces(text: str) -> list[str]:
    """The parts between commas that no bracket encloses."""
    pieces = [""]
    depth = 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += letter
    return [piece for piece in pieces if piece.strip()]
