"""Which value may flow into which port: assignability of types, as one pure relation.

It is reflexive and transitive, so that a chain of wires is sound if each wire is. Therefore `Any` and `object` are
the top: everything flows into them, and they flow only into each other. Values are immutable by convention, so
containers are covariant. Arrays are compared by structure (array type, dtypes, dimensions), since two spellings of
one `Float[Tensor, "b c"]` are not `==`.
"""

import collections.abc
import types
from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NewType,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .space import ANY_SPACE, LatentSpace

_TOWER = {int: (float, complex), float: (complex,)}  # PEP 484: an int is fine where a float is wanted


class Port:
    """A tag on a type that says what kind of value it is: `Annotated[Tensor, Port("latents")]`.

    A value of kind "latents" flows only into ports of that kind or of no kind. `space` says that values of this
    kind live in a latent space; `ANY_SPACE` is one variable a block, found from what it is joined to.
    """

    def __init__(self, kind: str, *, space: LatentSpace | None = None) -> None:
        self.kind = kind
        self.space = space

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Port) and (self.kind, self.space) == (other.kind, other.space)

    def __hash__(self) -> int:
        return hash((self.kind, self.space))

    def __repr__(self) -> str:
        return f"Port({self.kind!r}{'' if self.space is None else f', space={self.space}'})"


def split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """`Annotated[T, *tags]` as T and its tags; a NewType, a TypeVar and None as what they stand for."""
    tags: tuple[Any, ...] = ()
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            tags = (*tags, *more)
        elif isinstance(hint, TypeVar):
            hint = hint.__bound__ or (Union[hint.__constraints__] if hint.__constraints__ else object)  # noqa: UP007  built at run time
        else:
            return (type(None) if hint is None else hint), tags


def port_of(hint: Any) -> Port | None:
    """The port tag of a type, if it has one."""
    return next((tag for tag in split(hint)[1] if isinstance(tag, Port)), None)


def arms(hint: Any) -> tuple[Any, ...]:
    """The members of a union; any other type alone. Tags of the union go to each member."""
    base, tags = split(hint)
    if get_origin(base) in (Union, types.UnionType):
        inner = [arm for member in get_args(base) for arm in arms(member)]
        return tuple(Annotated[arm, *tags] for arm in inner) if tags else tuple(inner)
    if get_origin(base) is Literal and len(get_args(base)) > 1:
        return tuple(Annotated[Literal[v], *tags] if tags else Literal[v] for v in get_args(base))
    return (hint,)


def assignable(source: Any, target: Any) -> bool:
    """Whether a value of type `source` may flow into a port of type `target`.

    >>> assignable(bool, int), assignable(int, int | None), assignable(int | None, int)
    (True, True, False)
    >>> assignable(list[int], Sequence[float]), assignable(Literal["a"], str), assignable(str, Literal["a"])
    (True, True, False)
    """
    try:
        return _assignable(source, target)
    except TypeError:  # an unhashable hint, such as Annotated with a list in it
        return _decide(source, target)


@lru_cache(maxsize=16384, typed=True)
def _assignable(source: Any, target: Any) -> bool:
    return _decide(source, target)


def _decide(source: Any, target: Any) -> bool:
    wanted_arms = arms(target)
    have_arms = arms(source)
    if len(have_arms) > 1 or len(wanted_arms) > 1:
        return all(any(_one(have, want) for want in wanted_arms) for have in have_arms)
    return _one(have_arms[0], wanted_arms[0])


def _one(source: Any, target: Any) -> bool:
    """The relation between two types that are no unions."""
    wanted, given = port_of(target), port_of(source)
    if wanted is not None and (given is None or given.kind != wanted.kind or not _same_space(given, wanted)):
        return False
    have, want = split(source)[0], split(target)[0]
    if have is want or want is Any or want is object:
        return True
    if have is Any or have is object:
        return False
    if isinstance(have, NewType) or isinstance(want, NewType):
        return isinstance(have, NewType) and assignable(have.__supertype__, target)
    if get_origin(have) is Literal:
        return _literal(get_args(have)[0], want)
    if get_origin(want) is Literal:
        return False
    if is_array(have) or is_array(want):
        return _array(have, want)
    if _is_callable(want):
        return _callable(have, want)
    if _is_callable(have):
        return want is collections.abc.Hashable
    return _nominal(have, want)


def _same_space(given: Port, wanted: Port) -> bool:
    if wanted.space is None or wanted.space == ANY_SPACE:
        return True
    # A narrower target needs every number that it names: unknown is not good enough, or chains would not be sound.
    have = given.space or ANY_SPACE
    names = ("name", "channels", "scaling", "shift")
    return all(getattr(wanted.space, n) in (None, getattr(have, n)) for n in names)


def _literal(value: Any, want: Any) -> bool:
    if get_origin(want) is Literal:
        return any(v == value and type(v) is type(value) for v in get_args(want))
    return assignable(type(value), want)


# ------------------------------------------------------------------------------------------------ classes
def _nominal(have: Any, want: Any) -> bool:
    if get_origin(have) is type and get_origin(want) is type:
        return assignable(get_args(have)[0], get_args(want)[0])
    s, t = get_origin(have) or have, get_origin(want) or want
    if not (isinstance(s, type) and isinstance(t, type)):
        return bool(have == want)
    if t in _TOWER.get(s, ()) or (s is bool and t in (float, complex)):
        return True
    if getattr(t, "_is_protocol", False) and not _is_subclass(s, t):
        return _meets(s, t)
    if not _is_subclass(s, t):
        return False
    wanted = get_args(want)
    if not wanted:
        return True
    given = args_as(have, t)
    if t is tuple or (s is tuple and t is tuple):
        return _tuples(given, wanted)
    return given is not None and len(given) == len(wanted) and all(map(assignable, given, wanted))


def _is_subclass(s: type, t: type) -> bool:
    try:
        return issubclass(s, t)
    except TypeError:  # a Protocol with data members that is not runtime checkable
        return False


def _tuples(given: tuple[Any, ...] | None, wanted: tuple[Any, ...]) -> bool:
    if given is None:
        return False
    if len(wanted) == 2 and wanted[1] is Ellipsis:
        return all(assignable(g, wanted[0]) for g in given if g is not Ellipsis)
    if len(given) == 2 and given[1] is Ellipsis:
        return False
    given, wanted = (() if x == ((),) else x for x in (given, wanted))
    return len(given) == len(wanted) and all(map(assignable, given, wanted))


def args_as(hint: Any, target: type) -> tuple[Any, ...] | None:
    """The type arguments of `hint` seen as `target`, one of its bases; None where they are not told.

    >>> args_as(dict[str, int], collections.abc.Mapping)
    (<class 'str'>, <class 'int'>)
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is target:
        if origin is tuple and not args and (fields := _named_tuple(hint)):
            return fields
        return args or None
    if origin in (str, bytes):
        return ({str: str, bytes: int}[origin],)
    if issubclass(origin, tuple):
        items = args or _named_tuple(origin)
        if target is tuple:
            return items or _through_bases(origin, args, target)
        if items is not None:
            members = tuple(a for a in items if a is not Ellipsis and a != ())
            return (Union[members] if members else object,)  # noqa: UP007  built at run time
    if origin.__module__ == "builtins" or (not hasattr(origin, "__orig_bases__") and args):
        return (args[:1] if _arity(target) == 1 else args) or None
    return _through_bases(origin, args, target)


def _named_tuple(cls: Any) -> tuple[Any, ...] | None:
    return tuple(get_type_hints(cls, include_extras=True).values()) if hasattr(cls, "_fields") else None


def _arity(cls: type) -> int:
    return getattr(getattr(__import__("typing"), cls.__name__, None), "_nparams", 1)


def _through_bases(origin: type, args: tuple[Any, ...], target: type) -> tuple[Any, ...] | None:
    bases = cast(tuple[Any, ...], getattr(origin, "__orig_bases__", origin.__bases__))
    generic = next((get_args(b) for b in bases if get_origin(b) in (Generic, Protocol)), None)
    names = generic or tuple(dict.fromkeys(p for b in bases for p in getattr(b, "__parameters__", ())))
    known = dict(zip(names, args, strict=False))
    for base in bases:
        cls = get_origin(base) or base
        if isinstance(cls, type) and cls not in (Generic, Protocol) and _is_subclass(cls, target):
            if cls is not base and (inner := getattr(base, "__parameters__", ())):
                base = base[tuple(known.get(p, object) for p in inner)]
            return args_as(base, target)
    return None


# ------------------------------------------------------------------------------------------------ protocols
def _meets(cls: type, protocol: type) -> bool:
    """Whether a class has what a protocol asks for: each attribute of a fitting type, each method of a fitting call."""
    wanted = get_type_hints(protocol, include_extras=True)
    given = get_type_hints(cls, include_extras=True)
    ignored = {*dir(Protocol), *dir(Generic), *dir(object), "__annotations__", "_is_runtime_protocol"} - {"__call__"}
    names = {n for c in protocol.__mro__ if getattr(c, "_is_protocol", False) for n in vars(c)} - ignored
    for name in names | set(wanted):
        member = getattr(protocol, name, None)
        if name not in given and not hasattr(cls, name):
            return False
        if name in wanted:
            if name in given and not assignable(given[name], wanted[name]):
                return False
        elif (isinstance(member, types.FunctionType) and not name.startswith("__")) or name == "__call__":
            if not _callable(getattr(cls, name), _hint_of(cast(types.FunctionType, member), bound=True), bound=True):
                return False
        elif (
            isinstance(member, property)
            and isinstance(have := getattr(cls, name), property)
            and not _property(have, member)
        ):
            return False
    return True


def _property(have: property, want: property) -> bool:
    given, wanted = (get_type_hints(p.fget, include_extras=True).get("return", object) for p in (have, want))
    return assignable(given, wanted)


# ------------------------------------------------------------------------------------------------ functions
def _is_callable(hint: Any) -> bool:
    return hint is Callable or (get_origin(hint) or hint) is collections.abc.Callable


def _hint_of(function: Callable[..., Any], *, bound: bool) -> Any:
    """A function's signature as `Callable[[…], …]`; parameters with a default are optional and left out of it."""
    hints = get_type_hints(function, include_extras=True)
    params = list(signature(function).parameters.values())[1 if bound else 0 :]
    if any(p.kind is Parameter.VAR_POSITIONAL for p in params):
        return Callable[..., hints.get("return", object)]
    needed = [hints.get(p.name, object) for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return Callable[needed, hints.get("return", object)]


def _callable(have: Any, want: Any, *, bound: bool = False) -> bool:
    """Parameters are contravariant, the return is covariant."""
    if isinstance(have, type) and not is_array(have):
        if "__call__" not in {n for c in have.__mro__ for n in vars(c)}:
            return False
        return _callable(have.__call__, want, bound=True)
    if isinstance(have, types.FunctionType):
        needed = [p for p in list(signature(have).parameters.values())[int(bound) :] if p.default is Parameter.empty]
        wanted = get_args(want)[0] if get_args(want) else Ellipsis
        if wanted is not Ellipsis and len([p for p in needed if p.kind is not Parameter.VAR_POSITIONAL]) > len(wanted):
            return False
        return _calls(_hint_of(have, bound=bound), want, extra=True)
    return _is_callable(have) and _calls(have, want)


def _calls(have: Any, want: Any, *, extra: bool = False) -> bool:
    if not get_args(want):
        return True
    if not get_args(have):
        return False
    (takes, gives), (wanted, result) = get_args(have), get_args(want)
    if not assignable(gives, result):
        return False
    if wanted is Ellipsis or takes is Ellipsis:
        return wanted is Ellipsis or (
            takes is Ellipsis and extra
        )  # only a real *args accepts whatever it is called with
    if len(takes) < len(wanted) or (len(takes) > len(wanted) and not extra):
        return False
    return all(assignable(w, t) for w, t in zip(wanted, takes, strict=False))


# ------------------------------------------------------------------------------------------------ arrays
def is_array(hint: Any) -> bool:
    """Whether a hint is a jaxtyping array such as `Float[Tensor, "b c h w"]` (read by structure, not imported)."""
    return isinstance(hint, type) and hasattr(hint, "array_type") and hasattr(hint, "dims")


def _array(have: Any, want: Any) -> bool:
    if not is_array(want):
        return assignable(have.array_type, want)
    if not is_array(have):
        return False
    if not assignable(have.array_type, want.array_type):
        return False
    if not _dtypes(have.dtypes, want.dtypes):
        return False
    return _dims(have.dim_str.split(), want.dim_str.split())


def _dtypes(have: Any, want: Any) -> bool:
    if not isinstance(want, list | tuple | set | frozenset):
        return True  # jaxtyping's marker of "any dtype" (Shaped)
    return isinstance(have, list | tuple | set | frozenset) and set(map(str, have)) <= set(map(str, want))


def _dims(have: Sequence[str], want: Sequence[str]) -> bool:
    """A size is a size; a name stands for any size; `*name` or `...` for any number of them."""
    spread = [i for i, d in enumerate(want) if d.startswith(("*", "..."))]
    if not spread:
        return (
            len(have) == len(want) and not any(d.startswith(("*", "...")) for d in have) and all(map(_dim, have, want))
        )
    head, tail = spread[0], len(want) - spread[0] - 1
    loose = [i for i, d in enumerate(have) if d.startswith(("*", "..."))]
    fixed = (loose[0], len(have) - loose[0] - 1) if loose else None
    if (fixed and (fixed[0] < head or fixed[1] < tail)) or (not fixed and len(have) < head + tail):
        return False
    front = all(map(_dim, have[:head], want[:head]))
    return front and (tail == 0 or all(map(_dim, have[-tail:], want[-tail:])))


def _dim(have: str, want: str) -> bool:
    want, have = (d.lstrip("#?").rpartition("=")[2] for d in (want, have))
    return have == want if want.isdecimal() else True


# ------------------------------------------------------------------------------------------------ meet, words
def meet(a: Any, b: Any) -> Any | None:
    """The widest type known here that flows into both `a` and `b`, or None where there is none.

    >>> meet(int | str, int | float), meet(int, str) is None
    (<class 'int'>, True)
    """
    if assignable(a, b):
        return a
    if assignable(b, a):
        return b
    common = [arm for arm in dict.fromkeys((*arms(a), *arms(b))) if assignable(arm, a) and assignable(arm, b)]
    return Union[tuple(common)] if common else None  # noqa: UP007  built at run time


def say(hint: Any) -> str:
    """A type in words for people: `Latents[sdxl]`-like for ports, short class names, no modules.

    >>> say(int | None), say(list[str]), say(Annotated[int, Port("steps")])
    ('int | None', 'list[str]', 'Steps')
    """
    if (port := port_of(hint)) is not None:
        word = "".join(part.capitalize() for part in port.kind.split("_"))
        optional = " | None" if any(split(a)[0] is type(None) for a in arms(split(hint)[0])) else ""
        return (
            f"{word}[{port.space.name or port.space}]{optional}"
            if port.space not in (None, ANY_SPACE)
            else word + optional
        )
    base = split(hint)[0]
    if base is type(None):
        return "None"
    if base is Ellipsis:
        return "…"
    if is_array(base):
        return f"{base.__name__.split('[')[0]}[{base.array_type.__name__}, {base.dim_str!r}]"
    origin, args = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return " | ".join(say(a) for a in args)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if origin is collections.abc.Callable:
        takes = "…" if args[0] is Ellipsis else ", ".join(say(a) for a in args[0])
        return f"({takes}) -> {say(args[1])}"
    if origin is not None:
        return f"{origin.__name__}[{', '.join(say(a) for a in args)}]"
    return getattr(base, "__name__", None) or str(base)
