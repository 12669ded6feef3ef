"""Tables in text files: JSON lines and CSV. One pass finds columns and places, and then any part can be read."""

import csv
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ...graph import LoadError
from ...graph.json_text import JsonTextError, parse
from ...graph.limits import AboveLimit, check_limit, limit
from ...registry import printable
from .table import Row, Table, without_empty

_EVERY = 256
"""The place in the file is kept of one row of so many."""

Found = Mapping[str, Any] | str
"""The cells of a row, or why it cannot be read."""


class TextTable(Table):
    """The rows of a text file in UTF-8. Their places in the file are found once, and rows are read when needed.

    Raises:
        LoadError: the file cannot be read, or has no columns or too many.
    """

    def __init__(self, path: Path) -> None:
        self.title, self.folder = printable(path.name), path.absolute().parent
        self.path = self._path = path.absolute()
        self._columns: list[str] = []
        self._count = 0
        self._places: list[int] = []  # in bytes, of every 256th row
        try:
            with self._path.open("rb") as file:
                self._look(file)
            check_limit("batch_columns", len(self._columns))
        except OSError as error:
            raise LoadError(f"{self.title}: cannot be read ({error.strerror or error}).") from error
        except AboveLimit as error:
            raise LoadError(f"{self.title}: {error}") from None

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns."""
        return self._columns

    def __len__(self) -> int:
        return self._count

    def _look(self, file: BinaryIO) -> None:
        """Find the columns, and the places of rows."""
        seen: dict[str, None] = dict.fromkeys(self._columns)
        for place, found in self._each(file):
            if self._count % _EVERY == 0:
                self._places.append(place)
            self._count += 1
            if not isinstance(found, str):
                seen |= dict.fromkeys(found)
            if len(seen) > limit("batch_columns"):
                break
        self._columns = list(seen)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The rows from `start` to `stop`."""
        stop = self._count if stop is None else min(stop, self._count)
        if start >= stop:
            return
        with self._path.open("rb") as file:
            file.seek(self._places[start // _EVERY])
            for number, (_, found) in enumerate(self._each(file), start - start % _EVERY):
                if number >= stop:
                    return
                if number >= start:
                    yield (
                        Row(number + 1, error=found)
                        if isinstance(found, str)
                        else Row(number + 1, without_empty(found))
                    )

    @abstractmethod
    def _each(self, file: BinaryIO) -> Iterator[tuple[int, Found]]:
        """The rows from the present place of the file, each with its place in bytes."""


class JsonLines(TextTable):
    """JSON lines: an object in each line. Empty lines are no rows."""

    def _each(self, file: BinaryIO) -> Iterator[tuple[int, Found]]:
        for place, line, error in _lines(file):
            if error or line.strip():
                yield place, error or _object(line)


class CsvText(TextTable):
    """CSV with the names of columns in its first row."""

    texts = True

    def __init__(self, path: Path, delimiter: str) -> None:
        self._delimiter = delimiter
        super().__init__(path)

    def _look(self, file: BinaryIO) -> None:
        header = next(self._records(file), (0, list[str]()))[1]
        if isinstance(header, str) or not any(header):
            raise LoadError(f"{self.title}: has no names of columns in its first row.")
        if twice := [name for name in header if header.count(name) > 1]:
            name = printable(twice[0])
            raise LoadError(f"{self.title}: has the column {name!r} twice. Rename one of them.")
        self._columns = header
        super()._look(file)

    def _each(self, file: BinaryIO) -> Iterator[tuple[int, Found]]:
        for place, cells in self._records(file):
            if isinstance(cells, str):
                yield place, cells
            elif len(cells) > len(self._columns):
                yield place, f"has {len(cells)} cells, and the header has {len(self._columns)}."
            elif cells:
                yield place, dict(zip(self._columns, cells, strict=False))

    def _records(self, file: BinaryIO) -> Iterator[tuple[int, list[str] | str]]:
        """The cells of each row. A row may have several lines: those between quotes."""
        ends = [start := file.tell()]
        errors: list[str] = []

        def texts() -> Iterator[str]:
            for _, line, error in _lines(file):
                ends[0] = file.tell()
                errors.extend([error] if error else [])
                yield line

        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        while True:
            try:
                cells: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells = f"is no CSV ({error}). Put quotes around cells with quotes, and double the quotes in them."
            yield start, errors[0] if errors else cells
            errors.clear()
            start = ends[0]


def _lines(file: BinaryIO) -> Iterator[tuple[int, str, str]]:
    """The lines from the present place of a file, each with its place in bytes, and why it cannot be read or ""."""
    most = limit("batch_row_bytes")
    while data := file.readline(most + 1):
        place = file.tell() - len(data)
        if len(data) > most:
            size = len(data)
            while (more := file.readline(most)) and not more.endswith(b"\n"):
                size += len(more)
            yield place, "\n", _above("batch_row_bytes", size + len(more))
            continue
        try:
            yield place, data.decode("utf-8-sig" if place == 0 else "utf-8"), ""
        except UnicodeDecodeError as error:
            text = f"is no text in UTF-8 ({error.reason} at byte {error.start}). Save the file as UTF-8."
            yield place, "\n", text


def _above(name: str, found: int) -> str:
    try:
        check_limit(name, found)
    except AboveLimit as error:
        return str(error)
    return ""


def _object(line: str) -> Found:
    try:
        data = parse(line.rstrip("\r\n"))
    except JsonTextError as error:
        return str(error)
    if not isinstance(data, dict):
        return f'is {type(data).__name__}, and a JSON object is needed. Write a row as {{"prompt": "a fox"}}.'
    return cast("dict[str, Any]", data)
