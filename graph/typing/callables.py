"""The same relation for function types: whether one may flow into the other.

Parameters are contravariant and returns covariant. The names of positional parameters are not compared. A parameter
without annotation fits everything.
"""

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any, Self, TypeVar, cast, get_args, get_origin, get_type_hints

from .arrays import Flows
from .hints import args_as, is_array, substitute


class _Unknown:
    def __repr__(self) -> str:
        return "unknown"


UNKNOWN: Any = _Unknown()
"""The type of a parameter, return or attribute without annotation."""


@dataclass(frozen=True)
class Call:
    """The signature of a callable type. `anything`: the `...` of `Callable[..., T]`. `trusted`: it cannot be read."""

    positional: tuple[tuple[str, Any, bool], ...] = ()  # name, type, whether it is required
    rest: Any = None  # the type of *args
    keyword: Mapping[str, tuple[Any, bool]] = field(default_factory=dict[str, tuple[Any, bool]])
    more: Any = None  # the type of **kwargs
    returns: Any = UNKNOWN
    anything: bool = False
    trusted: bool = False


def is_callable(hint: Any) -> bool:
    """Whether a hint is `Callable` or `Callable[…]`."""
    return hint is Callable or (get_origin(hint) or hint) is collections.abc.Callable


def call_of(hint: Any) -> Call | None:
    """The signature of values of this type; None if they cannot be called."""
    if is_callable(hint):
        takes, returns = get_args(hint) or (Ellipsis, object)
        if not isinstance(takes, list):  # `...`, or a ParamSpec: any parameters
            return Call(returns=returns, anything=True)
        return Call(tuple(("", t, True) for t in cast(list[Any], takes)), returns=returns)
    if isinstance(hint, types.FunctionType | types.MethodType):
        return _read(hint, bound=False, known={})
    origin = get_origin(hint) or hint
    if origin is type:
        return Call(returns=(*get_args(hint), object)[0], trusted=True)
    if not isinstance(origin, type) or is_array(origin) or not any("__call__" in vars(c) for c in origin.__mro__):
        return None
    member = member_type(hint, "__call__", {})
    return member if isinstance(member, Call) else Call(trusted=True)


def _read(function: Any, *, bound: bool, known: Mapping[Any, Any]) -> Call:
    try:
        params = list(inspect.signature(function).parameters.values())[int(bound) :]
    except (TypeError, ValueError):
        return Call(trusted=True)
    hints = {name: _known(hint, known) for name, hint in hints_of(function).items()}
    positional: list[tuple[str, Any, bool]] = []
    keyword: dict[str, tuple[Any, bool]] = {}
    rest = more = None
    for p in params:
        kind = hints.get(p.name, UNKNOWN)
        if p.kind is Parameter.VAR_POSITIONAL:
            rest = kind
        elif p.kind is Parameter.VAR_KEYWORD:
            more = kind
        elif p.kind is Parameter.KEYWORD_ONLY:
            keyword[p.name] = (kind, p.default is p.empty)
        else:
            positional.append((p.name, kind, p.default is p.empty))
    return Call(tuple(positional), rest, keyword, more, hints.get("return", UNKNOWN))


def _known(hint: Any, known: Mapping[Any, Any]) -> Any:
    if hint is Self:
        return known.get(Self, UNKNOWN)
    if isinstance(hint, TypeVar) and hint not in known and hint.__bound__ is None:
        return UNKNOWN
    return substitute(hint, known)


def hints_of(thing: Any) -> dict[str, Any]:
    """`get_type_hints`, with `UNKNOWN` for a hint that cannot be resolved, such as a name under TYPE_CHECKING."""
    try:
        return get_type_hints(thing, include_extras=True)
    except (NameError, AttributeError, TypeError):
        found: dict[str, Any] = {}
        owners = reversed(thing.__mro__) if isinstance(thing, type) else (thing,)
        for owner in owners:
            for name, hint in inspect.get_annotations(owner).items():
                alone = type("_Alone", (), {"__annotations__": {name: hint}, "__module__": owner.__module__})
                scope = getattr(owner, "__globals__", None)
                try:
                    found |= get_type_hints(alone, globalns=scope, include_extras=True)
                except (NameError, AttributeError, TypeError):
                    found[name] = UNKNOWN
        return found


def calls_fit(have: Call, want: Call, flows: Flows) -> bool:
    """Whether a caller of `want` can call `have` instead."""

    def fits(a: Any, b: Any) -> bool:
        return a is UNKNOWN or b is UNKNOWN or flows(a, b)

    if have.trusted or want.trusted:
        return fits(have.returns, want.returns)
    if not fits(have.returns, want.returns):
        return False
    if want.anything or have.anything:
        return want.anything
    for i, (_, kind, must) in enumerate(want.positional):
        if i < len(have.positional):
            _, mine, needed = have.positional[i]
            if not fits(kind, mine) or (needed and not must):
                return False
        elif have.rest is None or not fits(kind, have.rest):
            return False
    left = {name: (kind, must) for name, kind, must in have.positional[len(want.positional) :]}
    named = {**left, **have.keyword}
    for name, (kind, must) in want.keyword.items():
        mine, needed = named.pop(name, (have.more, False))
        if mine is None or not fits(kind, mine) or (needed and not must):
            return False
    if want.rest is not None and (have.rest is None or not fits(want.rest, have.rest)):
        return False
    if want.more is not None and (have.more is None or not fits(want.more, have.more)):
        return False
    return not any(needed for _, needed in named.values())


def member_type(hint: Any, name: str, hints: Mapping[str, Any], me: Any = None) -> Any:
    """The type of an attribute of a class: a hint, a `Call`, or `UNKNOWN`."""
    cls = get_origin(hint) or hint
    owner = next((c for c in cls.__mro__ if name in vars(c) or name in inspect.get_annotations(c)), cls)
    args = args_as(hint, owner) if owner is not hint else ()
    params: tuple[Any, ...] = getattr(owner, "__parameters__", ())
    known: dict[Any, Any] = dict(zip(params, args or (object,) * len(params), strict=False))
    known[Self] = me if me is not None else hint
    if name in hints:
        return _known(hints[name], known)
    raw = inspect.getattr_static(cls, name, UNKNOWN)
    if isinstance(raw, property):
        return _known(hints_of(raw.fget).get("return", UNKNOWN), known)
    if isinstance(raw, functools.cached_property):
        return _known(hints_of(cast(Any, raw).func).get("return", UNKNOWN), known)
    if isinstance(raw, classmethod | staticmethod):
        return _read(cast(Any, raw).__func__, bound=isinstance(raw, classmethod), known=known)
    if isinstance(raw, types.FunctionType):
        return _read(raw, bound=True, known=known)
    if callable(raw) or inspect.isdatadescriptor(raw):  # a method of a builtin class, a slot
        return UNKNOWN
    return type(raw)
