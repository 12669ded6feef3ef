"""JSON text: written in lines that people can read and compare, and read strictly."""

import json
from typing import Any

_WIDTH = 100


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
    """Text that is no strict JSON. The message says where."""


def parse(text: str) -> Any:  # JSON values
    """Read strict JSON: without NaN, and without a key twice in one object. Python's reader would keep the last."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise JsonTextError(f"is not JSON at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except JsonTextError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise JsonTextError(f"cannot be read as JSON: {error}.") from None
    except RecursionError:
        raise JsonTextError("is nested too deep to be a graph file.") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = ", ".join(repr(key) for key in made if keys.count(key) > 1)
        raise JsonTextError(f"has the key {twice} twice in one object ({{{', '.join(map(repr, keys))}}}). Remove one.")
    return made


def _no_constant(name: str) -> Any:
    raise JsonTextError(f'has {name}, which is not JSON. Write {{"$float": "{name.lower()}"}}.')
