"""The relation between types and port types: whether a value of one may flow into the other.

It is reflexive and transitive, so that a chain of edges is sound if each edge is. Therefore `Any` and `object` are the
top: everything flows into them, and they flow only into each other. A collection without item types has objects. Values
are immutable by convention, so collections are covariant. Arrays are compared by structure (array type, dtypes,
dimensions), since two spellings of one `Float[Tensor, "b c"]` are not `==`.
"""

import collections.abc
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Literal, Never, NewType, NoReturn, get_args, get_origin

from ..space import ANY_SPACE
from .arrays import aligned, arrays_fit
from .callables import call_of, calls_fit, is_callable
from .hints import args_as, is_array, is_subclass, is_unpacked, items_of, split_annotated, tagged, union, union_members
from .port import Port, port_of
from .protocols import has_members, is_protocol, protocol_members

_ASSUMED: ContextVar[frozenset[tuple[Any, Any]]] = ContextVar("sfumato_assumed", default=frozenset())
"""Pairs of a class and a protocol that are being checked: a protocol that mentions itself is assumed to fit."""


def assignable(source: Any, target: Any) -> bool:
    """Whether a value of type `source` may flow into a port of type `target`.

    >>> assignable(bool, int), assignable(int, int | None), assignable(int | None, int)
    (True, True, False)
    >>> assignable(list[int], tuple[float, ...]), assignable(Literal["a"], str), assignable(str, Literal["a"])
    (False, True, False)
    """
    if _ASSUMED.get():  # an answer under an assumption must not be cached
        return _decide(source, target)
    try:
        return _assignable(source, target)
    except TypeError:  # an unhashable hint, such as Annotated with a list in it
        return _decide(source, target)


@lru_cache(maxsize=16384, typed=True)
def _assignable(source: Any, target: Any) -> bool:
    return _decide(source, target)


def _decide(source: Any, target: Any) -> bool:
    targets = union_members(target)
    return all(any(_one(have, want) for want in targets) for have in union_members(source))


def _one(source: Any, target: Any) -> bool:
    """The relation between two types that are not unions."""
    (have, tags), (want, _) = split_annotated(source), split_annotated(target)
    if isinstance(have, NewType) and have is not want:
        return assignable(tagged(have.__supertype__, tags), target) or want is Any or want is object
    target_port, source_port = port_of(target), port_of(source)
    if target_port is not None and (
        source_port is None or source_port.kind != target_port.kind or not _same_space(source_port, target_port)
    ):
        return False
    if have is want or want is Any or want is object or have is Never or have is NoReturn:
        return True
    if have is Any or have is object or isinstance(want, NewType):
        return False
    if get_origin(have) is Literal:
        return _literal(get_args(have)[0], want)
    if get_origin(want) is Literal:
        return False
    if is_array(have) or is_array(want):
        return arrays_fit(have, want, assignable)
    if is_callable(want):
        call, other_call = call_of(have), call_of(want)
        return call is not None and other_call is not None and calls_fit(call, other_call, assignable)
    if is_callable(have):
        return want is collections.abc.Hashable or (is_protocol(get_origin(want) or want) and _has_members(have, want))
    return _nominal(have, want)


def _same_space(source: Port, target: Port) -> bool:
    if target.space is None or target.space == ANY_SPACE:
        return True
    # A target needs every number that it names. An unknown number does not fit, else chains would not be sound.
    have = source.space or ANY_SPACE
    names = ("name", "channels", "scaling", "shift")
    return all(getattr(target.space, n) in (None, getattr(have, n)) for n in names)


def _literal(value: Any, want: Any) -> bool:
    if get_origin(want) is Literal:
        return any(v == value and type(v) is type(value) for v in get_args(want))
    return assignable(type(value), want)


def _nominal(have: Any, want: Any) -> bool:
    s, t = get_origin(have) or have, get_origin(want) or want
    if not (isinstance(s, type) and isinstance(t, type)):
        return bool(have == want)
    if (t is float and issubclass(s, int)) or (t is complex and issubclass(s, int | float)):
        return True  # PEP 484: an int is fine where a float is expected
    if not is_subclass(s, t):
        return is_protocol(t) and _has_members(have, want)
    if is_protocol(t) and get_args(want) and t not in s.__mro__:
        return _has_members(have, want)
    if t is tuple:
        return _tuples(items_of(have), items_of(want))
    target_args = get_args(want)
    source_args = args_as(have, t) or (object,) * len(target_args)
    return not target_args or (len(source_args) == len(target_args) and all(map(assignable, source_args, target_args)))


def _tuples(source: tuple[Any, ...] | None, target: tuple[Any, ...] | None) -> bool:
    def row(items: tuple[Any, ...] | None) -> list[Any]:
        """The items; the repeated one is in a list of its own."""
        found: list[Any] = []
        for item in (object, Ellipsis) if items is None else items:
            if item is Ellipsis:
                found[-1] = [found[-1]]
            elif is_unpacked(item):
                found += row(get_args(item))
            else:
                found.append(item)
        return found

    def repeats(item: Any) -> bool:
        return isinstance(item, list)

    def fits(a: Any, b: Any) -> bool:
        return assignable(a[0] if repeats(a) else a, b[0] if repeats(b) else b)

    return aligned(row(source), row(target), repeats, fits)


def _has_members(have: Any, protocol: Any) -> bool:
    assumed = _ASSUMED.get()
    if (have, protocol) in assumed:
        return True
    token = _ASSUMED.set(assumed | {(have, protocol)})
    try:
        if is_callable(have):
            call, target_call = call_of(have), call_of(protocol)
            only = protocol_members(get_origin(protocol) or protocol) == {"__call__"}
            return only and call is not None and target_call is not None and calls_fit(call, target_call, assignable)
        return has_members(have, protocol, assignable)
    finally:
        _ASSUMED.reset(token)


def meet(a: Any, b: Any) -> Any | None:
    """The widest known type that flows into both `a` and `b`, or None.

    >>> meet(int | str, int | float), meet(int, str) is None
    (<class 'int'>, True)
    """
    if assignable(a, b):
        return a
    if assignable(b, a):
        return b
    common = [
        arm
        for arm in dict.fromkeys((*union_members(a), *union_members(b)))
        if assignable(arm, a) and assignable(arm, b)
    ]
    return union(common) if common else None
