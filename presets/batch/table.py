"""Tables of requests, whose rows are read a part at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Cells = Mapping[str, Any]
"""The cells of a row by column, without the empty ones."""


@dataclass(frozen=True)
class Row:
    """A row of a table. number: from 1. cells: without the empty ones. error: why the row cannot be read, or ""."""

    number: int
    cells: Cells = field(default_factory=dict[str, Any])
    error: str = ""


class Table(ABC):
    """A table of requests. A process that receives it in a pickle reads the same file.

    title: for errors. folder: the folder of its file, which paths in cells are relative to; None for rows in memory.
    path: the file itself. texts: whether all cells are texts, which the types of inputs read.
    """

    title: str = "table"
    folder: Path | None = None
    path: Path | None = None
    texts: bool = False

    @property
    @abstractmethod
    def columns(self) -> Sequence[str]:
        """The names of all columns."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The rows from place `start` (from 0) to `stop`, which is left out; None for the end."""


class RowsInMemory(Table):
    """Rows that the program made."""

    title = "the table"

    def __init__(self, data: Sequence[Cells]) -> None:
        self._data = data
        known = getattr(data, "column_names", None)
        self._columns = list(known) if known else list(dict.fromkeys(str(name) for row in data for name in row))

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns."""
        return self._columns

    def __len__(self) -> int:
        return len(self._data)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The rows from `start` to `stop`."""
        for place in range(start, len(self._data) if stop is None else min(stop, len(self._data))):
            yield Row(place + 1, without_empty(self._data[place]))


def without_empty(cells: Cells) -> Cells:
    """The cells that are not empty: None, "" and NaN are."""
    return {str(name): value for name, value in cells.items() if not _is_empty(value)}


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and value != value)
