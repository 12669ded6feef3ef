"""Code keys: texts that change with the code of a class or function, helpers of its package included."""

import hashlib
import re
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from ...registry import Names
from ..block import Block
from ..cache import CACHE
from .library_values import NoContentKey, library_parts

_LIBRARY = __name__.partition(".")[0]
_RELEASED = {"PIL", "builtins", "diffusers", "numpy", "torch", "transformers"}
"""Packages whose code counts by their version, since nobody edits it."""
_SKIPPED = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__dataclass_fields__", "__firstlineno__",
    "__dataclass_params__", "__match_args__", "__abstractmethods__", "__static_attributes__",
    "__signature__", "_abc_impl", CACHE,
    "__slotnames__",  # which the first pickle or copy of an object writes into its class
}  # fmt: skip


def digest(*parts: str | bytes) -> str:
    """A hash of texts and bytes, each with its length, so that no two lists of parts look alike."""
    lengths = " ".join(f"{type(part).__name__}{len(part)}" for part in parts)
    made = hashlib.blake2b(lengths.encode(), digest_size=16)
    for part in parts:
        made.update(part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass"))
    return made.hexdigest()


def digest_texts(texts: Iterable[str]) -> str:
    """The same for many short texts, quickly."""
    return hashlib.blake2b(repr(tuple(texts)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


_KEYS: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
_OF_LIBRARY: "weakref.WeakKeyDictionary[Any, tuple[str, tuple[Any, ...]]]" = weakref.WeakKeyDictionary()
"""The keys of this library's own classes and functions, each by itself, and what each leads to: many share them."""


def code_key(thing: Any) -> str:  # a class, function or method
    """The key of a class or function: its bytecode, and that of all helpers of its own package that it names.

    Comments, docstrings, annotations and places in files do not count. Helpers of other packages count by name, and
    this library by its version where it helps another package. Torch and other released packages count by version.
    """
    thing = getattr(thing, "__func__", thing)
    if (package := _package(thing)) in _RELEASED:
        version = getattr(sys.modules.get(package), "__version__", "")
        return digest(package, version, thing.__module__, thing.__qualname__)
    if (key := _KEYS.get(thing)) is None:
        key = _KEYS[thing] = digest(*_closure(thing))
    return key


def _closure(start: Any) -> Iterator[str | bytes]:
    package = _package(start)
    yield "code"
    if package != _LIBRARY:
        yield f"{_LIBRARY} {sys.modules[_LIBRARY].__version__}"
    waiting, seen = [start], {id(start)}
    while waiting:
        own, found = _alone(waiting.pop(0), package)
        yield own
        for one in found:
            if id(one) not in seen and _package(one) == package and one is not Block:
                seen.add(id(one))
                waiting.append(one)


def _alone(thing: Any, package: str) -> tuple[str, tuple[Any, ...]]:
    """The key of a class or function by itself, and the classes and functions that it names."""
    if package == _LIBRARY and (kept := _OF_LIBRARY.get(thing)) is not None:
        return kept
    found: list[Any] = []
    parts = _class_parts(thing, package, found) if isinstance(thing, type) else _function_parts(thing, found)
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    key = digest(name, *parts), tuple(found)
    if package == _LIBRARY:
        _OF_LIBRARY[thing] = key
    return key


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", None) or "").partition(".")[0]


def _class_parts(cls: type, package: str, found: list[Any]) -> Iterator[str | bytes]:
    found.extend(base for base in cls.__bases__ if base is not object)
    for name, value in sorted(vars(cls).items()):
        if name not in _SKIPPED and not name.startswith("__pydantic_"):
            yield name
            yield from _value_parts(value, found)


def _function_parts(function: FunctionType, found: list[Any]) -> Iterator[str | bytes]:
    code = getattr(function, "__code__", None)
    if code is None:
        yield repr(type(function))
        return
    yield from _code_parts(code, skip_first=bool(function.__doc__))
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield from _value_parts(value, found)
    for cell in function.__closure__ or ():
        try:
            yield from _value_parts(cell.cell_contents, found)
        except ValueError:  # not filled yet
            yield "empty"
    names = list(_names(code))
    for name in names:
        if name in function.__globals__:
            value = function.__globals__[name]
            yield name
            if isinstance(value, ModuleType) and value.__name__.partition(".")[0] == _package(function):
                found.extend(vars(value)[inner] for inner in names if _is_code(vars(value).get(inner)))
            else:
                yield from _value_parts(value, found)


def _value_parts(value: Any, found: list[Any]) -> Iterator[str | bytes]:
    """The parts of a constant, or of the value of a name; code that it leads to is added to `found`."""
    if isinstance(value, staticmethod | classmethod | MethodType):
        value = value.__func__
    if isinstance(value, property):
        found.extend(f for f in (value.fget, value.fset) if f is not None)
    elif isinstance(value, partial):
        yield from _value_parts((value.func, value.args, value.keywords), found)
    elif (inner := getattr(value, "__wrapped__", None)) is not None and not isinstance(value, type):
        found.append(inner)
        if isinstance(value, FunctionType):
            found.append(value)
    elif _is_code(value):
        found.append(value)
        yield f"{value.__module__}.{value.__qualname__}"
    elif isinstance(value, ModuleType | BuiltinFunctionType):
        yield value.__name__
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield type(value).__name__
        yield repr(value)
    elif isinstance(value, Names):  # reading its values would import all of them
        yield from ("names", *value)
    elif isinstance(value, weakref.WeakKeyDictionary | weakref.WeakValueDictionary):
        yield type(value).__name__  # what it holds is of this process
    elif isinstance(value, Mapping):
        yield "mapping"
        for pair in cast("Mapping[Any, Any]", value).items():
            yield from _value_parts(pair, found)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(cast('Sequence[Any]', value))}"
        for item in cast("Sequence[Any]", value):
            yield from _value_parts(item, found)
    elif isinstance(value, set | frozenset):
        yield repr(sorted(map(repr, cast("set[Any]", value))))
    elif isinstance(value, re.Pattern | Enum):
        yield repr(value)
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__}"
        found.append(type(value))
        with suppress(NoContentKey):
            yield from library_parts(value) or ()
        if is_dataclass(value):
            for f in fields(value):
                yield f.name
                yield from _value_parts(getattr(value, f.name, None), found)


def _is_code(value: Any) -> bool:
    return isinstance(value, type | FunctionType)


def _code_parts(code: CodeType, *, skip_first: bool = False) -> Iterator[str | bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_kwonlyargcount))
    for constant in code.co_consts[1 if skip_first else 0 :]:
        if isinstance(constant, CodeType):
            yield from _code_parts(constant)
        elif isinstance(constant, frozenset):  # in another order in each process
            yield repr(sorted(map(repr, cast("frozenset[object]", constant))))
        else:
            yield f"{type(constant).__name__} {constant!r}"


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
