"""Texts that change over the steps, `[a:b:0.4]` and `[a|b]`: read them, and list the text of each step."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import lcm
from typing import Any

from ...components.conditioning import StepPlan
from ...graph.errors import UnfitValue
from ...graph.limits import AboveLimit, check_limit

Items = tuple[Any, ...]  # Any: a recursive type, str | Switch | Alternate
"""A text that may change over the steps: pieces of text, and places where it changes."""


@dataclass(frozen=True, eq=False)
class Switch:
    """One text, and from a point on another: the two `options`.

    point: a fraction of the whole steps where `is_fraction`, else a number of whole steps.
    """

    options: tuple[Items, Items]
    point: float
    is_fraction: bool


@dataclass(frozen=True, eq=False)
class Alternate:
    """Several texts in turn, another one in each whole step."""

    options: tuple[Items, ...]


_TOKEN = re.compile(r"\\.|[\[\]():|]|[^\\\[\]():|]+|\\", re.DOTALL)
_POINT = re.compile(r"\s*([+-]?(?:\d{1,9}(?:\.\d*)?|\.\d+))\s*")


@dataclass
class _Open:
    """A bracket that is not closed yet: its segments between separators of its own level."""

    bracket: str
    segments: list[list[Any]] = field(default_factory=lambda: [[]])  # of items
    separators: list[str] = field(default_factory=list[str])
    unmatched: bool = False
    """Whether a parenthesis inside has no partner, so that the bracket is plain text."""

    def add(self, items: Iterable[Any]) -> None:
        self.segments[-1].extend(items)

    def literal(self, end: str = "") -> list[Any]:
        """The bracket as text."""
        items: list[Any] = [self.bracket]
        for separator, segment in zip(["", *self.separators], self.segments, strict=True):
            items += [separator, *segment]
        return _joined([*items, end])


def parse(text: str) -> Items:
    """Read a text. Brackets that are neither a switch nor an alternation stay text, as do brackets without a partner.

    >>> parse("a [b] (c")
    ('a [b] (c',)
    """
    opened = [_Open("")]
    squares = 0
    for token in _TOKEN.findall(text):
        top = opened[-1]
        if token in "([":
            opened.append(_Open(token))
            squares += token == "["
        elif token in ":|" and top.bracket == "[":
            top.separators.append(token)
            top.segments.append([])
        elif token == ")" and top.bracket == "(":
            opened.pop()
            opened[-1].add(top.literal(")"))
        elif token == "]" and squares:
            while (top := opened.pop()).bracket == "(":
                opened[-1].add(top.literal())
                opened[-1].unmatched = True
            squares -= 1
            opened[-1].add(_closed(top))
        else:
            top.unmatched |= token == ")"
            top.add([token])
    while len(opened) > 1:
        top = opened.pop()
        opened[-1].add(top.literal())
    return tuple(_joined(opened[0].segments[0]))


def _closed(found: _Open) -> list[Any]:
    """The items of a closed bracket: a switch, an alternation, or text."""
    if not found.unmatched and found.separators:
        kinds = {*found.separators}
        parts = [tuple(_joined(segment)) for segment in found.segments]
        if kinds == {"|"}:
            return [Alternate(tuple(parts))]
        last = parts[-1][0] if len(parts[-1]) == 1 else None
        point = _POINT.fullmatch(last) if isinstance(last, str) else None
        if kinds == {":"} and len(parts) <= 3 and point:
            before = parts[0] if len(parts) == 3 else ()
            return [Switch((before, parts[-2]), float(point[1]), "." in point[1])]
    return found.literal("]")


def _joined(items: Iterable[Any]) -> list[Any]:
    """The items with texts that follow each other joined."""
    made: list[Any] = []
    texts: list[str] = []
    for item in items:
        if isinstance(item, str):
            texts.append(item)
            continue
        if text := "".join(texts):
            made.append(text)
        texts = []
        made.append(item)
    if text := "".join(texts):
        made.append(text)
    return made


def played(rows: Sequence[Items]) -> tuple[list[tuple[str, ...]], StepPlan]:
    """All combinations of texts over the steps, and the plan of the combination in each step.

    Args:
        rows: texts that change together, such as those of two text encoders.

    Raises:
        UnfitValue: more combinations than the limit.
    """
    choices = list(_choices(rows))
    switches = [choice for choice in choices if isinstance(choice, Switch)]
    fractions = sorted({s.point for s in switches if s.is_fraction})
    numbers = sorted({s.point for s in switches if not s.is_fraction})
    period = lcm(*(len(choice.options) for choice in choices if isinstance(choice, Alternate)))
    try:
        check_limit("prompt_variants", (len(fractions) + 1) * (len(numbers) + 1) * period)
    except AboveLimit as error:
        raise UnfitValue(f"The prompt {error}") from None
    found: dict[tuple[str, ...], int] = {}
    table: list[int] = []
    for i in range(len(fractions) + 1):
        for j in range(len(numbers) + 1):
            passed = {*((point, True) for point in fractions[:i]), *((point, False) for point in numbers[:j])}
            for turn in range(period):
                texts = tuple(_text(items, passed, turn) for items in rows)
                table.append(found.setdefault(texts, len(found)))
    return list(found), StepPlan(tuple(fractions), tuple(map(int, numbers)), period, tuple(table))


def _choices(rows: Sequence[Items]) -> Iterator[Switch | Alternate]:
    stack: list[Any] = [item for items in rows for item in items]
    while stack:
        item = stack.pop()
        if isinstance(item, Switch | Alternate):
            yield item
            for option in item.options:
                stack.extend(option)


def _text(items: Items, passed: set[tuple[float, bool]], turn: int) -> str:
    """The text where these points are passed, in a turn of the period."""
    made: list[str] = []
    stack = [iter(items)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif isinstance(item, str):
            made.append(item)
        elif isinstance(item, Switch):
            stack.append(iter(item.options[(item.point, item.is_fraction) in passed]))
        else:
            stack.append(iter(item.options[turn % len(item.options)]))
    return "".join(made)
