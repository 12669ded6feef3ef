"""Which array may flow into which: by array type, dtypes and dimensions, read from jaxtyping's classes."""

from collections.abc import Callable, Sequence
from typing import Any

from .hints import is_array

Flows = Callable[[Any, Any], bool]


def arrays_fit(have: Any, want: Any, flows: Flows) -> bool:
    """Whether one hint flows into the other, of which at least one is an array."""
    if not is_array(want):
        return flows(have.array_type, want)
    return (
        is_array(have)
        and flows(have.array_type, want.array_type)
        and _dtypes(have.dtypes, want.dtypes)
        and aligned(have.dim_str.split(), want.dim_str.split(), _is_spread, _dim)
    )


def _dtypes(have: Any, want: Any) -> bool:
    if not isinstance(want, list | tuple | set | frozenset):
        return True  # jaxtyping's marker of "any dtype" (Shaped)
    return isinstance(have, list | tuple | set | frozenset) and set(map(str, have)) <= set(map(str, want))


def rank(kind: Any) -> int | None:  # Any: a jaxtyping class
    """How many dimensions an array type has; None where it takes any number."""
    dims = kind.dim_str.split()
    return None if any(map(_is_spread, dims)) else len(dims)


def _is_spread(dim: str) -> bool:
    return dim.lstrip("#?").startswith(("*", "..."))


def _dim(have: str, want: str) -> bool:
    """A size is a size, and a name stands for any size. "#4" is 4 or 1."""
    if _is_spread(want):
        return True
    want, have = (d.rpartition("=")[2] for d in (want, have))
    if not want.lstrip("#?").isdecimal():
        return True
    return have == want or (want[0] == "#" and have in (want[1:], "1"))


def aligned(have: Sequence[Any], want: Sequence[Any], spread: Callable[[Any], bool], item: Flows) -> bool:
    """Whether a row of items fits another, where one item of each may stand for any number of them.

    It is the same for the dimensions of an array ("*b c") and the items of a tuple (`int, *tuple[str, ...]`).
    """
    wide = next((i for i, w in enumerate(want) if spread(w)), None)
    loose = next((i for i, h in enumerate(have) if spread(h)), None)
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
