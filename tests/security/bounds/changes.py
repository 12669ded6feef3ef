"""Changes of a file's content: one to three values become other numbers, texts or lists."""

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

from hypothesis import strategies as st

Path = tuple[str | int, ...]

NUMBERS: list[Any] = [
    0, -1, 1, 2, 3, 7, 1_000, 100_000, 10**6, 10**9, 2**31 - 1, 2**31, 2**63, 10**18, 10**30, 10**39, 10**400,
    0.0, -0.0, 0.5, 1.0, 2.0, -1.5, 1e-320, 1e-30, 1e9, 1e300, 1.7e308, math.inf, -math.inf, math.nan,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, "", "auto", "x" * 100_000, [], {}, [[]], ["a"], {"a": 1}, [None] * 3]


class Times(NamedTuple):
    """A change of a number by a factor."""

    factor: float


def _repeated(value: Any, count: int) -> list[Any]:
    return [value] * count


def _nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


numbers = st.sampled_from(NUMBERS) | st.integers(-(10**6), 10**6) | st.floats()
values = (
    numbers
    | st.builds(Times, st.sampled_from([0.25, 0.5, 1.5, 2, 3, 4, 10, 100, 1_000, -1]))
    | st.sampled_from(OTHERS)
    | st.builds(_repeated, numbers, st.sampled_from([1, 2, 5, 1_000, 100_000]))
    | st.builds(_nested, st.sampled_from([10, 60]))
)


def places(content: Any, at: Path = ()) -> Iterator[Path]:
    """The paths of all values: of long lists and objects only the first and the last ones."""
    yield at
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    items = list(pairs)
    for key, value in items if len(items) <= 60 else [*items[:30], *items[-30:]]:
        yield from places(value, (*at, key))


def changed(content: Any, changes: list[tuple[Path, Any]]) -> Any:
    """A copy with these values at these paths, of which some may be gone after another change."""
    made = [deepcopy(content)]
    for path, value in changes:
        holder: Any = made
        *steps, last = (0, *path)
        try:
            for step in steps:
                holder = holder[step]
            holder[last] = _scaled(holder[last], value)
        except (KeyError, IndexError, TypeError):
            continue
    return made[0]


def _scaled(old: Any, new: Any) -> Any:
    """A number times a factor; a longer list of the same values, if the new value is a list; else the new value."""
    if isinstance(new, Times):
        number = old if isinstance(old, int | float) and not isinstance(old, bool) else 1
        return type(number)(number * new.factor)
    if isinstance(old, list) and old and isinstance(new, list) and len(new) > 2:
        return (old * (len(new) // len(old) + 1))[: len(new)]
    return new
