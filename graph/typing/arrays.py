"""The same relation for array types: by array class, dtypes and dimensions, read from jaxtyping's classes."""

from collections.abc import Callable, Sequence
from typing import Any

from .hints import is_array

Flows = Callable[[Any, Any], bool]


def arrays_fit(have: Any, want: Any, flows: Flows) -> bool:
    """Whether one hint flows into the other. At least one of them is an array."""
    if not is_array(want):
        return flows(have.array_type, want)
    return (
        is_array(have)
        and flows(have.array_type, want.array_type)
        and _dtypes(have.dtypes, want.dtypes)
        and aligned(have.dim_str.split(), want.dim_str.split(), _is_variadic, _dim)
    )


def _dtypes(have: Any, want: Any) -> bool:
    if not isinstance(want, list | tuple | set | frozenset):
        return True  # jaxtyping's mark for any dtype (Shaped)
    return isinstance(have, list | tuple | set | frozenset) and set(map(str, have)) <= set(map(str, want))


def rank(kind: Any) -> int | None:  # Any: a jaxtyping class
    """The number of dimensions of an array type; None if it takes any number."""
    dims = kind.dim_str.split()
    return None if any(map(_is_variadic, dims)) else len(dims)


def _is_variadic(dim: str) -> bool:
    return dim.lstrip("#?").startswith(("*", "..."))


def _dim(have: str, want: str) -> bool:
    """Whether one dimension flows into another. A name takes any size; "#4" takes 4 or 1."""
    if _is_variadic(want):
        return True
    want, have = (d.rpartition("=")[2] for d in (want, have))
    if not want.lstrip("#?").isdecimal():
        return True
    return have == want or (want[0] == "#" and have in (want[1:], "1"))


def aligned(have: Sequence[Any], want: Sequence[Any], variadic: Callable[[Any], bool], item: Flows) -> bool:
    """Whether one sequence of items fits another. One item of each may be variadic: it stands for any number of items.

    Used for the dimensions of an array ("*b c") and for the items of a tuple (`int, *tuple[str, ...]`).
    """
    wide = next((i for i, w in enumerate(want) if variadic(w)), None)
    loose = next((i for i, h in enumerate(have) if variadic(h)), None)
    if wide is None:
        return loose is None and len(have) == len(want) and all(map(item, have, want))
    head, tail = wide, len(want) - wide - 1
    short = len(have) < head + tail if loose is None else loose < head or len(have) - loose - 1 < tail
    if short:
        return False
    end = len(have) - tail
    return (
        all(map(item, have[:head], want[:head]))
        and all(item(h, want[wide]) for h in have[head:end])
        and all(map(item, have[end:], want[wide + 1 :]))
    )
