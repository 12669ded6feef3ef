"""The manifest of a batch: a line for each row of its table, in the table's order, with its result or its error."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self

from ...graph import LoadError, SaveError
from ...graph.json_text import JsonTextError, parse
from ...graph.saving import saving_file
from ...registry import printable
from .parquet_files import ParquetTable, write_parquet

Did = Literal["drawn", "found", "failed"]
FIELDS = "row", "did", "key", "files", "seed", "seconds", "error"
"""The columns of a manifest, before those that it copies from the table."""


@dataclass(frozen=True)
class BatchRow:
    """A row of a batch.

    row: its number in the table, from 1. did: "drawn", "found" (an earlier batch or row has drawn it), or "failed".
    key: of its pictures; "" without any. files: their paths in the folder. seed: of the run, if it has one number.
    seconds: how long the run took, side by side with others. error: on one line, or "". kept: cells of the table, by
    column.
    """

    row: int
    did: Did
    key: str = ""
    files: tuple[str, ...] = ()
    seed: int | None = None
    seconds: float = 0.0
    error: str = ""
    kept: Mapping[str, Any] = field(default_factory=dict[str, Any])  # JSON values

    def to_text(self) -> str:
        """The row as a line of JSON."""
        own = {name: getattr(self, name) for name in FIELDS}
        return json.dumps({**own, "seconds": round(self.seconds, 3), **self.kept}, ensure_ascii=False, default=str)

    @classmethod
    def of_text(cls, text: str) -> "BatchRow":
        """The row in a line of JSON."""
        data = parse(text)
        own: dict[str, Any] = {name: data.pop(name) for name in FIELDS}
        own["files"] = tuple(own["files"])
        return cls(**own, kept=data)


class ManifestFile:
    """A manifest that is being written. `add` takes rows in any order, and lines are written in that of the table.

    Until `with` ends, lines are in FILE.part, and an older manifest stays. An end of the process leaves whole lines
    there. One process at a time writes a manifest.

    Raises:
        SaveError: another process writes it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._waiting: dict[int, BatchRow] = {}
        self._next = 1
        self._lock = Lock()

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._busy = FileLock(self.path.with_name(f".{self.path.name}.lock"), thread_local=False)
            self._busy.acquire(timeout=0)
            self._file = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        except Timeout:
            raise SaveError(
                f"{self.path}: another batch writes this manifest. Wait for its end, or pass the path of another one."
            ) from None
        except OSError as error:
            raise SaveError(f"{self.path}: cannot be written ({error.strerror}). Pass another folder.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._lock:
                for number in sorted(self._waiting):  # of a batch that was stopped
                    self._write(self._waiting[number])
                os.fsync(self._file)
                os.close(self._file)
            if self.path.suffix.lower() == ".parquet":
                self._write_parquet()
                self._part.unlink()
            else:
                os.replace(self._part, self.path)
        finally:
            with suppress(OSError):  # Windows removes no open file
                Path(self._busy.lock_file).unlink()
            self._busy.release()

    def add(self, row: BatchRow) -> None:
        """Add a row, from any thread."""
        with self._lock:
            self._waiting[row.row] = row
            while (row_next := self._waiting.pop(self._next, None)) is not None:
                self._write(row_next)
                self._next += 1

    def _write(self, row: BatchRow) -> None:
        os.write(self._file, f"{row.to_text()}\n".encode("utf-8", "backslashreplace"))  # one call: no half lines

    def _write_parquet(self) -> None:
        with saving_file(self.path) as draft:
            write_parquet(self._part, draft)


def read_manifest(path: Path) -> Iterator[BatchRow]:
    """The rows of a manifest, one after the other. LoadError for a file of another form."""
    shown = printable(str(path))
    try:
        if path.suffix.lower() == ".parquet":
            for row in ParquetTable(path).rows():
                yield BatchRow.of_text(json.dumps({**dict.fromkeys(FIELDS), "error": "", "key": "", **row.cells}))
            return
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                yield BatchRow.of_text(line)
    except (OSError, JsonTextError, KeyError, TypeError) as error:
        raise LoadError(f"{shown}: cannot be read as the manifest of a batch ({error}).") from error
