"""The report of an import: what became of each setting."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ....registry import printable

Fate = Literal["used", "note", "missing", "not supported"]


class Line(NamedTuple):
    """One setting of the text: "used" as it is, used with a "note", a file that is "missing", or "not supported"."""

    setting: str
    value: str
    fate: Fate
    text: str = ""

    def __str__(self) -> str:
        value = self.value if len(self.value) <= 60 else f"{self.value[:57]}…"
        return printable(f"{self.fate:<13}  {self.setting}: {value}{f'  ({self.text})' if self.text else ''}")


@dataclass(frozen=True)
class Report:
    """What became of each setting of an imported text. `print(report)` shows it."""

    lines: tuple[Line, ...]

    @property
    def problems(self) -> tuple[Line, ...]:
        """The settings that the graph does not have, and the files that were not found."""
        return tuple(line for line in self.lines if line.fate in ("missing", "not supported"))

    def __str__(self) -> str:
        counts = Counter(line.fate for line in self.lines)
        return "\n".join([", ".join(f"{count} {fate}" for fate, count in counts.items()), *map(str, self.lines)])
