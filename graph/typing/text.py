"""Types as text for people."""

import types
from typing import Annotated as Annotated
from typing import Any, Literal, Union, get_args, get_origin

from ..space import ANY_SPACE
from .callables import is_callable
from .hints import is_array, is_unpacked, union_members, untagged
from .port import Port as Port
from .port import port_of


def type_text(hint: Any) -> str:
    """A type as text for people: `Latents[sdxl]` for a port, else class names without modules.

    >>> type_text(int | None), type_text(list[str]), type_text(Annotated[int, Port("steps")])
    ('int | None', 'list[str]', 'Steps')
    """
    if (port := port_of(hint)) is not None:
        word = "".join(part.capitalize() for part in port.kind.split("_"))
        space = f"[{port.space.name or port.space}]" if port.space not in (None, ANY_SPACE) else ""
        optional = " | None" if any(untagged(a) is type(None) for a in union_members(untagged(hint))) else ""
        return word + space + optional
    base = untagged(hint)
    if base is type(None) or base is Ellipsis:
        return "None" if base is not Ellipsis else "…"
    if is_array(base):
        return f"{base.__name__.split('[')[0]}[{type_text(base.array_type)}, {base.dim_str!r}]"
    origin, args = get_origin(base), get_args(base)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(a) for a in args)
    if origin is Literal:
        return " | ".join(map(repr, args))
    if is_callable(base) and args:
        takes = ", ".join(type_text(a) for a in args[0]) if isinstance(args[0], list) else "…"
        return f"({takes}) -> {type_text(args[1])}"
    if origin is not None:
        star = "*" if is_unpacked(base) else ""
        return f"{star}{getattr(origin, '__name__', origin)}[{', '.join(type_text(a) for a in args) or '()'}]"
    return getattr(base, "__name__", None) or str(base)
