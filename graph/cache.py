"""Results that are computed once and kept with the immutable object that they are about, so that none is stale."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

CACHE = "_cache"
"""The attribute under which an object keeps results. It is no field: copies and pickles begin without it."""

MOST = 64
"""Results of one kind that an object keeps. A service with more swaps than that pays 1 ms for each further one."""


def cached(owner: object, kind: str, make: Callable[[], T], key: Hashable = None) -> T:
    """The result of `make()`, kept on `owner` under its kind and key; the oldest of a kind goes first.

    Threads may make one result twice; all of them get the same one.
    """
    try:
        return owner.__dict__[CACHE][kind][key]
    except KeyError:
        made = make()
    kept: dict[Hashable, Any] = owner.__dict__.setdefault(CACHE, {}).setdefault(kind, {})
    while len(kept) >= MOST:
        kept.pop(list(kept)[0], None)  # noqa: RUF015  a list is made at once, an iterator fails if a thread adds
    return kept.setdefault(key, made)
