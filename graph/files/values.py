"""Config values as JSON and back: written by their own class, read by the type of the field."""

import json
import math
import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any, NewType, get_args, get_origin, get_type_hints

from ..block import Block, tagged
from ..typing import type_text, union_members, untagged
from ..validate import Unfit, fitted
from .inside import leads_out

_FLOAT = "$float"  # the key for inf and nan, which JSON does not have


@dataclass(frozen=True)
class Values:
    """Writes and reads config values. The two functions write and read the blocks inside of them."""

    block_to_json: Callable[[Block, str], Any]
    block_from_json: Callable[[Any, str], Block]

    def encode(self, value: Any, at: str) -> Any:
        """The value as JSON. Raises `Unfit` for a value that a file cannot hold; `at` is its place."""
        if isinstance(value, Enum):
            return value.name
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {_FLOAT: str(value)}
        if isinstance(value, PurePath):
            if leads_out(value):
                raise Unfit(f"has the path {str(value)!r}. A file may hold a path without a root, '..' and '~' only.")
            return value.as_posix()
        if _is_dtype(value):
            return str(value).removeprefix("torch.")
        if isinstance(value, Block):
            return self.block_to_json(value, at)
        if isinstance(value, tuple | list):
            return [self.encode(item, f"{at}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, AbstractSet):
            return sorted((self.encode(item, at) for item in value), key=json.dumps)
        if isinstance(value, Mapping):
            if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
                raise Unfit(f"has the key {wrong[0]!r}. Keys in a file must be text that does not begin with '$'.")
            return {key: self.encode(item, f"{at}.{key}") for key, item in value.items()}
        if hasattr(value, "to_json") and hasattr(type(value), "from_json"):
            return value.to_json()
        if is_dataclass(value) and not isinstance(value, type):
            return {f.name: self.encode(getattr(value, f.name), f"{at}.{f.name}") for f in fields(value) if f.init}
        raise Unfit(
            f"has a {type(value).__name__}, which a file cannot hold. Use numbers, text, tuples, enums or frozen "
            "dataclasses, or make it a component()."
        )

    def decode(self, data: Any, hint: Any, at: str) -> Any:
        """The value of this JSON for a field of type `hint`. Raises `Unfit`.

        Of a union, the member whose value is written as the same JSON, else the first member that accepts the JSON.
        """
        accepted: list[Any] = []
        for member in union_members(hint):
            try:
                value = self._as(data, member, at)
                if tagged(self.encode(value, at)) == tagged(data):
                    return value
                accepted.append(value)
            except (Unfit, TypeError):
                continue
        if not accepted:
            raise Unfit(f"takes {type_text(hint)}, got {json.dumps(data)}")
        return accepted[0]

    def _as(self, data: Any, hint: Any, at: str) -> Any:
        base = untagged(hint)
        if isinstance(base, NewType):
            return self.decode(data, base.__supertype__, at)
        if base is Any or base is object:
            return self._plain(data)
        cls = get_origin(base) or base
        if cls is float and isinstance(data, dict) and data.keys() == {_FLOAT}:
            return fitted(float(data[_FLOAT]), base)
        if not isinstance(cls, type):
            return fitted(data, hint)
        if issubclass(cls, Block):
            block = self.block_from_json(data, at)
            if not isinstance(block, cls):
                raise Unfit(f"takes {type_text(base)}, got a {type(block).__name__}")
            return block
        if cls.__module__ == "torch" and cls.__name__ == "dtype":
            return fitted(getattr(sys.modules["torch"], str(data), None), base)
        if issubclass(cls, Enum):
            return _enum_member(cls, data)
        if issubclass(cls, PurePath):
            if leads_out(text := fitted(data, str)):
                raise Unfit(f"needs a path inside the folder of the program, without '..' and '~', got {text!r}")
            return cls(text)
        if hasattr(cls, "from_json"):
            return cls.from_json(data)  # type: ignore[attr-defined]  # hasattr just above
        if is_dataclass(cls):
            return self._record(data, cls, at)
        if isinstance(data, list):
            return self._items(data, base, cls, at)
        if isinstance(data, dict):
            if not issubclass(cls, Mapping):
                raise Unfit("")
            inner = (get_args(base) or (str, Any))[1]
            return {key: self.decode(item, inner, f"{at}.{key}") for key, item in data.items()}
        return fitted(data, hint)

    def _items(self, data: list[Any], base: Any, cls: type, at: str) -> Any:
        if issubclass(cls, tuple) and hasattr(cls, "_fields"):
            hints = get_type_hints(cls, include_extras=True)
            if len(hints) != len(data):
                raise Unfit("")
            return cls(*[self.decode(item, hints[n], f"{at}.{n}") for n, item in zip(hints, data, strict=True)])
        if issubclass(cls, str | bytes) or not hasattr(cls, "__iter__"):
            raise Unfit("")
        args = get_args(base) or (Any, ...)
        if issubclass(cls, tuple) and args[-1] is not Ellipsis:
            if len(args) != len(data):
                raise Unfit("")
        else:
            args = (args[0],) * len(data)
        items = [self.decode(item, arg, f"{at}[{i}]") for i, (item, arg) in enumerate(zip(data, args, strict=True))]
        if issubclass(cls, AbstractSet):
            return set(items) if cls is set else frozenset(items)
        return fitted(items if cls is list else tuple(items), cls)

    def _record(self, data: Any, cls: Any, at: str) -> Any:
        hints = get_type_hints(cls, include_extras=True)
        names = [f.name for f in fields(cls) if f.init]
        if not isinstance(data, dict) or not data.keys() <= set(names):
            raise Unfit(f"takes {cls.__name__}({', '.join(names)})")
        return cls(**{name: self.decode(item, hints[name], f"{at}.{name}") for name, item in data.items()})

    def _plain(self, data: Any) -> Any:
        """A value without a type: arrays become tuples, since config must be hashable."""
        if isinstance(data, list):
            return tuple(map(self._plain, data))
        if isinstance(data, dict):
            if data.keys() == {_FLOAT}:
                return float(data[_FLOAT])
            return {key: self._plain(item) for key, item in data.items()}
        return data


def strict_json(data: Any) -> Any:
    """JSON values whose floats may be inf or nan, in strict JSON."""
    if isinstance(data, dict):
        return {key: strict_json(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [strict_json(item) for item in data]
    return {_FLOAT: str(data)} if isinstance(data, float) and not math.isfinite(data) else data


def from_strict_json(data: Any) -> Any:
    """The inverse of `strict_json`. Raises `Unfit`."""
    if isinstance(data, dict):
        if data.keys() == {_FLOAT}:
            return _number(data[_FLOAT])
        return {key: from_strict_json(item) for key, item in data.items()}
    return [from_strict_json(item) for item in data] if isinstance(data, list) else data


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise Unfit(f"needs the text of a number for {_FLOAT}, such as 'inf', got {text!r}") from None


def equal_values(a: Any, b: Any) -> bool:
    """Whether two config values are equal and of equal types at every depth. nan equals nan."""
    if type(a) is float and type(b) is float:
        return a == b or (a != a and b != b)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal_values, a, b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal_values(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def _is_dtype(value: Any) -> bool:
    return type(value).__module__ == "torch" and type(value).__name__ == "dtype"


def _enum_member(cls: type[Enum], data: Any) -> Enum:
    if not isinstance(data, str) or data not in cls.__members__:
        raise Unfit(f"takes {', '.join(cls.__members__)}")
    return cls[data]
