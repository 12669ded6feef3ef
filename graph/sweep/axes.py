"""The axes of a sweep: which values vary, and their labels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from ..block import Block
from ..errors import InputError, Problem
from ..limits import AboveLimit, check_limit
from ..validate import value_text

_LONGEST = 60
_PLAIN = str | int | float | bool | None


@dataclass(frozen=True)
class Axis:
    """An input, slot or component that varies: its name, its values, and a label for each."""

    name: str
    values: tuple[Any, ...]  # values of calls
    labels: tuple[str, ...]


def axes_of(values: Mapping[str, Any]) -> tuple[Axis, ...]:
    """The axes of a sweep, in the order of the keywords: lists and ranges vary, and all else is one value.

    Raises:
        InputError: an empty list, equal values, a list of adapters that may mean two things, or too many combinations.
    """
    problems: list[Problem] = []
    axes: list[Axis] = []
    for name, value in values.items():
        if not isinstance(value, list | range):
            continue
        if problem := _problem(name, value):
            problems.append(problem)
            continue
        counts = Counter(one for one in value if isinstance(one, _PLAIN))
        most, count = next(iter(counts.most_common(1)), ("", 0))
        if count > 1:
            label = label_of(most)
            problems.append(Problem("value", name, f"has {label!r} {count} times. Pass each value once.", label))
        axes.append(Axis(name, tuple(value), labels_of(list(value))))
    count = prod(len(axis.values) for axis in axes)
    try:
        check_limit("sweep_cells", count)
    except AboveLimit as error:
        problems.append(Problem("limit", "sweep", str(error), str(count)))
    if problems:
        raise InputError(problems)
    return tuple(axes)


def _problem(name: str, values: Sequence[Any]) -> Problem | None:
    if not len(values):
        way = " Write adapters=[[]] for one value without adapters." if name == "adapters" else ""
        return Problem("value", name, f"needs values that vary, got an empty list. Leave it out.{way}", "[]")
    if name == "adapters" and any(not isinstance(value, list | tuple) for value in values):
        text = (
            "needs a list of adapters for each value, got a list with an adapter in it, which may mean two things. "
            "Write adapters=[[a], [b]] for two values, or adapters=[[a, b]] for one value with both."
        )
        return Problem("value", name, text)
    return None


def combinations(axes: Sequence[Axis]) -> Iterator[tuple[int, ...]]:
    """The index of a value on each axis, for all combinations; the last axis runs fastest."""
    return product(*(range(len(axis.values)) for axis in axes))


def same_value(a: Any, b: Any) -> bool:
    """Whether two values of an axis are one: the same object, or equal texts or numbers."""
    return a is b or (isinstance(a, _PLAIN) and isinstance(b, _PLAIN) and a == b)


def labels_of(values: Sequence[Any]) -> tuple[str, ...]:
    """A short label for each value. Values that are shown alike get numbers."""
    shown = [label_of(value) for value in values]
    alike = {label for label, count in Counter(shown).items() if count > 1}
    return tuple(f"{label} {number}" if label in alike else label for number, label in enumerate(shown, 1))


def label_of(value: Any) -> str:
    """A short label of a value of a call."""
    if isinstance(value, _PLAIN):
        text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    elif isinstance(value, Mapping):
        text = ", ".join(f"{key}={label_of(entry)}" for key, entry in value.items())
    elif isinstance(value, list | tuple):
        text = " + ".join(label_of(entry) for entry in value) or "none"
    elif isinstance(value, Block):
        text = _block_label(value)
    elif isinstance(name := getattr(value, "name", None), str) and hasattr(value, "strength"):  # an adapter
        text = name if value.strength == 1 else f"{name} {value.strength:g}"
    else:
        text = value_text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _block_label(block: Block) -> str:
    plain = {name: getattr(type(block), name, None) for name in block.config()}
    changed = [f"{name}={label_of(value)}" for name, value in block.config().items() if value != plain[name]]
    name = type(block).__name__
    return f"{name}({', '.join(changed)})" if changed else name
