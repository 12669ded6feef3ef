"""Reading a type hint: its tags, the members of a union, and its type arguments for one of its bases."""

import collections.abc
import types
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Never,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)


def split_annotated(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[T, *tags]` as T and its tags. A TypeVar gives its bound, a ClassVar its type, None its class."""
    tags: tuple[Any, ...] = ()
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            tags = (*more, *tags)
        elif isinstance(hint, TypeVar):
            hint = hint.__bound__ or (union(hint.__constraints__) if hint.__constraints__ else object)
        elif get_origin(hint) in (ClassVar, Final):
            (hint,) = get_args(hint)
        else:
            return (type(None) if hint is None else hint), tags


def untagged(hint: Any) -> Any:
    """The type without its tags."""
    return split_annotated(hint)[0]


def tags_of(hint: Any) -> tuple[Any, ...]:
    """The tags of a type, the outermost last."""
    return split_annotated(hint)[1]


def tagged(hint: Any, tags: tuple[Any, ...]) -> Any:
    """The hint with these tags."""
    return Annotated[hint, *tags] if tags else hint


def union(members: Any) -> Any:
    """The union of these types; `Never` if there are none."""
    members = tuple(members)
    return Union[members] if members else Never  # noqa: UP007  built at run time


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, each with the tags of the union; for another type, the type alone."""
    base, tags = split_annotated(hint)
    if get_origin(base) in (Union, types.UnionType):
        return tuple(tagged(arm, tags) for member in get_args(base) for arm in union_members(member))
    if get_origin(base) is Literal and len(get_args(base)) > 1:
        return tuple(tagged(Literal[value], tags) for value in get_args(base))
    return (hint,)


def is_array(hint: Any) -> bool:
    """Whether a hint is a jaxtyping array such as `Float[Tensor, "b c h w"]` (read by structure, not imported)."""
    return isinstance(hint, type) and hasattr(hint, "array_type") and hasattr(hint, "dims")


def is_subclass(s: Any, t: Any) -> bool:
    """`issubclass`, and false where Python raises TypeError (a Protocol with data members)."""
    try:
        return issubclass(s, t)
    except TypeError:
        return False


# ------------------------------------------------------------------------------------------------ arguments
_ITEMS: dict[type, Any] = {str: str, bytes: int, bytearray: int, range: int, memoryview: int}


def args_as(hint: Any, target: type) -> tuple[Any, ...] | None:
    """The type arguments that `hint` has as a subclass of `target`; None if they are not stated.

    >>> args_as(dict[str, int], collections.abc.Mapping)
    (<class 'str'>, <class 'int'>)
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is target and origin is not tuple:
        return args or None
    if origin in _ITEMS:
        return (_ITEMS[origin],)
    if is_subclass(origin, tuple) and (items := items_of(hint)) is not None:
        return items if target is tuple else (union(_unpacked(items)),)
    if origin.__module__ in ("builtins", "collections", "collections.abc"):
        if origin is collections.Counter and args:
            args = (*args, int)
        return args[: _arity(target)] or None
    return _through_bases(origin, args, target)


def items_of(hint: Any) -> tuple[Any, ...] | None:
    """The item types of a tuple, or of the fields of a NamedTuple; None for a bare `tuple`."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is tuple:
        return args if hint is not tuple else None
    if hasattr(origin, "_fields"):
        known = dict(zip(getattr(origin, "__parameters__", ()), args, strict=False))
        fields = get_type_hints(origin, include_extras=True)
        return tuple(substitute(fields.get(name, object), known) for name in origin._fields)
    return _through_bases(origin, args, tuple)


def _unpacked(items: tuple[Any, ...]) -> list[Any]:
    """The types of all items: int and str for `int, *tuple[str, ...]`."""
    inner = [get_args(i) if is_unpacked(i) else (i,) for i in items if i is not Ellipsis]
    return [i for group in inner for i in group if i is not Ellipsis]


def is_unpacked(item: Any) -> bool:
    """Whether an item of a tuple is `*tuple[…]`."""
    return getattr(item, "__unpacked__", False) is True


def substitute(hint: Any, known: Any) -> Any:
    """A hint with its type variables replaced."""
    if isinstance(hint, TypeVar):
        return known.get(hint, hint)
    if inner := getattr(hint, "__parameters__", ()):
        return hint[tuple(known.get(p, p) for p in inner)]
    return hint


def _arity(cls: type) -> int:
    """The number of type arguments of a container of the standard library."""
    if is_subclass(cls, collections.abc.Mapping) or cls is collections.abc.ItemsView:
        return 2
    return 3 if cls in (collections.abc.Generator, collections.abc.Coroutine) else 1


def _through_bases(origin: type, args: tuple[Any, ...], target: type) -> tuple[Any, ...] | None:
    bases = cast(tuple[Any, ...], origin.__dict__.get("__orig_bases__", origin.__bases__))
    generic = next((get_args(b) for b in bases if get_origin(b) in (Generic, Protocol)), None)
    names = generic or tuple(dict.fromkeys(p for b in bases for p in getattr(b, "__parameters__", ())))
    known = dict(zip(names, args, strict=False))
    for base in bases:
        cls = get_origin(base) or base
        if isinstance(cls, type) and cls not in (Generic, Protocol) and is_subclass(cls, target):
            return args_as(substitute(base, known) if cls is not base else base, target)
    return None
