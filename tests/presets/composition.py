"""docs/composition.md: tables of what goes with what. The tests that fill a table write it, or compare it.

After a change that is meant, `SFUMATO_WRITE=1 pytest tests/presets/test_composition.py
tests/presets/test_composition_speed.py` writes the tables anew.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"
WRITING = bool(os.environ.get("SFUMATO_WRITE"))
RUNS = "yes"
CODES = "Codes"

Outcome = tuple[str, str]
"""A cell, and the text of the error where there was one."""


def table_text(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table as the page has it."""
    lines = [f"| | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {row} | {' | '.join(cells)} |" for row, cells in rows.items()]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def on_page(title: str) -> Mapping[str, Mapping[str, str]]:
    """A table of the page: its cells by column and row."""
    body = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in body.splitlines() if line[:1] == "|"]
    return {column: {line[0]: line[i] for line in lines[2:]} for i, column in enumerate(lines[0]) if i} if lines else {}


def shown(title: str, row: str, column: str) -> str:
    """A cell of the page."""
    found = on_page(title).get(column, {}).get(row)
    assert found is not None, f"{PAGE.name} has no {row!r} with {column!r} in {title!r}. Write it anew: SFUMATO_WRITE=1"
    return found


def write(tables: Mapping[str, str], reasons: Mapping[str, str], head: str = "") -> None:
    """Put tables in place of those of their titles, and add examples of errors by their codes.

    head: the text before the first table; "" to keep it, and the examples that are there.
    """
    page = PAGE.read_text(encoding="utf-8")
    first, *sections = re.split(r"(?m)^(?=## )", page)
    known = {section.partition("\n")[0].removeprefix("## "): section for section in sections}
    before: list[tuple[str, str]] = re.findall(r"(?m)^- \*\*(.+)\*\*: `(.+)`$", known.pop(CODES, ""))
    codes = {**dict(before), **reasons} if head else {**reasons, **dict(before)}
    for title, text in tables.items():
        *_, after = known.get(title, "").rpartition("|\n")  # words below a table stay
        known[title] = text + (after if after.strip() else "\n")
    used = {code: text for code, text in codes.items() if any(_has(section, code) for section in known.values())}
    examples = "".join(f"- **{code}**: `{' '.join(text.split())}`\n" for code, text in sorted(used.items()))
    known[CODES] = f"## {CODES}\n\nEach with an example of its text.\n\n{examples}"
    PAGE.write_text((head or first) + "".join(known.values()), encoding="utf-8")


def _has(section: str, code: str) -> bool:
    return re.search(rf"[|:] {re.escape(code)}(;| \|)", section) is not None
