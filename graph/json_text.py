"""JSON text: written in lines that people can read and compare, and read strictly, with limits.

All JSON that comes from outside is read here: graph files, configs, indexes, vocabularies, and JSON inside tensors.
"""

import json
import os
import re
from itertools import chain
from math import isinf
from pathlib import Path
from stat import S_ISREG
from typing import Any

from .limits import AboveLimit, check_limit, limit
from .saving import undo_interrupted

_WIDTH = 100
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def pretty(data: Any, indent: str = "") -> str:  # JSON values
    """JSON where everything that fits into one line is one line, such as an edge or the config of a node.

    >>> print(pretty({"edges": [{"from": "a.x", "to": "b.x"}], "outputs": []}))
    {"edges": [{"from": "a.x", "to": "b.x"}], "outputs": []}
    """
    line = json.dumps(data, ensure_ascii=False, allow_nan=False)
    if len(line) + len(indent) <= _WIDTH or not (isinstance(data, dict | list) and data):
        return line
    inner = indent + "  "
    if isinstance(data, list):
        rows = [f"{inner}{pretty(item, inner)}" for item in data]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    rows = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {pretty(value, inner)}" for key, value in data.items()]
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


class JsonTextError(ValueError):
    """Text that is not strict JSON. The message says where."""


class JsonSyntaxError(JsonTextError):
    """Text that is not JSON at all. The message says where; what to do depends on where the text is from."""


def read_text(path: Path, most: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. `most` is the name of the limit on its bytes.

    Raises:
        OSError: a file that is missing or cannot be read.
        JsonTextError: no plain file, a file that is too large, or another encoding.
        LoadError: a save into its folder was interrupted, and it cannot be undone.
    """
    undo_interrupted(path.parent)
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not S_ISREG(status.st_mode):
            raise JsonTextError("is not a plain file. Put the file itself there.")
        _check(most, status.st_size)
        data = file.read(limit(most) + 1)
    _check(most, len(data))  # it may have grown
    return decoded(data)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe too, which would else wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decoded(data: bytes) -> str:
    """The text of these bytes in UTF-8, with or without a byte order mark. JsonTextError for another encoding."""
    if data.startswith(_UTF16):
        raise JsonTextError("is text in UTF-16. Save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonTextError(f"is not a text file ({error.reason} at byte {error.start}). Fetch it again.") from None


def read(path: Path, most: str, *, infinity: bool = False) -> Any:  # JSON values
    """The JSON in a file; see `read_text` and `parse`."""
    text = read_text(path, most)
    if most == "config_bytes":
        _check("config_values", text.count(",") + 1)
    try:
        return parse(text, infinity=infinity)
    except JsonSyntaxError as error:
        raise JsonTextError(f"{error} Correct that place, or fetch the file again.") from None


def parse(text: str, *, infinity: bool = False) -> Any:  # JSON values
    """Read strict JSON, within the limits on nesting and on the number of values, which are checked before the work.

    A key twice in one object, NaN, a number that no float holds, and half of a surrogate pair are refused. infinity:
    whether Infinity and -Infinity are read, which published configs of schedulers have.

    Raises:
        JsonTextError: text that is not such JSON, with its place and, but for JsonSyntaxError, what to do.
    """
    # Letters inside of strings are counted too. So this is an upper bound, in a hundredth of the time of reading.
    _check("json_containers", text.count("[") + text.count("{"))
    _check("json_values", text.count(",") + 1)
    try:
        data = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_infinity if infinity else _no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except json.JSONDecodeError as error:
        raise JsonSyntaxError(f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise JsonTextError(_too_deep()) from None
    _check_depth(data)
    if _SURROGATE.search(text):
        _check_surrogates(data)
    return data


def _check(name: str, found: int) -> None:
    try:
        check_limit(name, found)
    except AboveLimit as error:
        raise JsonTextError(str(error)) from None


def _check_depth(data: Any) -> None:
    level = [data] if isinstance(data, dict | list) else []
    depth = 0
    while level:
        depth += 1
        if depth > limit("json_depth"):
            raise JsonTextError(_too_deep())
        inner = chain.from_iterable(v.values() if type(v) is dict else v for v in level)
        level = [v for v in inner if type(v) in (dict, list)]


def _too_deep() -> str:
    return f"is nested more than {limit('json_depth')} levels deep, and published files fewer than 20. Fetch it again."


def _check_surrogates(data: Any) -> None:
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise JsonTextError(
            f"has \\u{ord(half):04x} alone, which is half of a letter. Write the letter itself, or both halves."
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        seen: set[str] = set()
        twice = dict.fromkeys(key for key in keys if key in seen or seen.add(key))
        shown, all_keys = (", ".join(map(_short, list(some)[:8])) for some in (twice, keys))
        raise JsonTextError(f"has the key {shown} twice in one object ({{{all_keys}}}). Remove one.")
    if made and (longest := max(map(len, made))) > limit("json_key"):
        _check("json_key", longest)
    return made


def _short(key: str) -> str:
    return repr(key if len(key) < 60 else f"{key[:57]}…")


def _no_constant(name: str) -> Any:
    raise JsonTextError(f'has {name}, which is not JSON. Write {{"$float": "{name.lower()}"}}.')


def _infinity(name: str) -> float:
    if name == "NaN":
        raise JsonTextError("has NaN, which is not JSON and no number. Write a number, or null.")
    return float(name)


def _finite(text: str) -> float:
    if isinf(value := float(text)):
        raise JsonTextError(f"has the number {text[:40]}, which is larger than any float. Write a smaller one.")
    return value


def _integer(text: str) -> int:
    _check("json_digits", len(text))
    return int(text)
