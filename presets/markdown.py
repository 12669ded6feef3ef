"""Markdown for cards: texts that may come from files, escaped."""

import re
from collections.abc import Sequence

from ..registry import printable

_MARKS = re.compile(r"[\\`*\[\]<>&#|~$!]|(?<![^\W_])_|_(?![^\W_])")


def plain(text: str) -> str:
    """Text in a line of Markdown, with its marks escaped."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


def code_span(text: str) -> str:
    """A code span. Its fence is longer than any row of backticks inside (CommonMark 0.31, section 6.1)."""
    shown = printable(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table. Cells are Markdown already."""
    return [_line(head), _line(("---",) * len(head)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
