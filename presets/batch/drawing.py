"""Drawing the rows of a batch side by side, in one process."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Lock
from typing import Any

from ...graph import Cancelled, Run, SfumatoError
from ...graph.memo import Memo, memo
from ...graph.together import RunGroup
from ..records.files import as_pictures
from .manifest import BatchRow
from .requests import OUTPUT, Reader, Request, error_text
from .results import Result, Results
from .table import Row

Emit = Callable[[BatchRow], None]
"""Takes each row that has a result or an error, in the order in which they end, from any thread."""


@dataclass(frozen=True)
class Drawing:
    """How rows are drawn. It can be sent to another process.

    at_once: so many runs go on side by side.
    """

    reader: Reader
    results: Results
    at_once: int
    memo: Memo = field(default_factory=memo)

    def draw(self, rows: Iterable[Row], emit: Emit) -> None:
        """Draw rows, and write their pictures. A row that fails is emitted with its error, and the others go on.

        Raises:
            SaveError: pictures cannot be written.
        """
        _Draw(self, emit).all(rows)

    def look(self, rows: Iterable[Row]) -> Iterator[BatchRow]:
        """Check rows without drawing: each as found, as failed, or as one that is to be drawn."""
        keys: set[str] = set()
        for row in rows:
            one = self.checked(row)
            if isinstance(one, Request):
                found = one.key in keys or self.results.find(one.key) is not None
                keys.add(one.key)
                yield BatchRow(row.number, "found" if found else "drawn", one.key, seed=one.seed)
            else:
                yield one

    def checked(self, row: Row) -> Request | BatchRow:
        """The request of a row; the failed row, if it cannot run."""
        try:
            return self.reader.request(row)
        except (SfumatoError, ValueError, LookupError, TypeError, OSError) as error:
            return BatchRow(row.number, "failed", error=error_text(error), kept=self.reader.kept(row))


@dataclass
class _Waiting:
    """The rows that wait for one run: the one that it was made for, and those that are equal."""

    request: Request
    rows: list[Row]
    began: float = field(default_factory=time.perf_counter)


class _Draw:
    """One pass over rows."""

    def __init__(self, drawing: Drawing, emit: Emit) -> None:
        self._drawing, self._emit = drawing, emit
        self._lock = Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._keys: dict[Run, str] = {}
        self._free = BoundedSemaphore(drawing.at_once)  # pictures in memory that are not written yet
        self._fault: BaseException | None = None

    def all(self, rows: Iterable[Row]) -> None:
        """Draw all rows. Pictures are written in a thread of their own while the next are drawn."""
        with ThreadPoolExecutor(1, "sfumato batch") as self._writer:
            RunGroup(self._runs(rows), self._drawing.at_once, self._ended).advance()
        self._check()

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _runs(self, rows: Iterable[Row]) -> Iterator[Run]:
        """The runs of the rows that have no result yet."""
        for row in rows:
            self._check()
            request = self._drawing.checked(row)
            if isinstance(request, BatchRow):
                self._emit(request)
                continue
            with self._lock:  # so that no result is written between the two looks
                if (same := self._waiting.get(request.key)) is not None:
                    same.rows.append(row)
                    continue
                if (found := self._drawing.results.find(request.key)) is None:
                    self._waiting[request.key] = _Waiting(request, [row])
                    self._keys[request.run] = request.key
            if found is not None:
                self._emit(self._row(row, request.key, found, "found"))
                continue
            yield request.run

    def _ended(self, run: Run) -> None:
        """Write the pictures of a run, or emit its error."""
        key = self._keys.pop(run)
        if isinstance(run.error, Cancelled):
            return
        if run.error is not None:
            if not isinstance(run.error, Exception):
                raise run.error
            self._fail(key, run.error)
            return
        self._free.acquire()
        seconds = time.perf_counter() - self._waiting[key].began
        self._writer.submit(self._write, key, run.outputs[OUTPUT], seconds)

    def _write(self, key: str, images: Any, seconds: float) -> None:  # images: of a run
        try:
            result = self._drawing.results.keep(key, as_pictures(images), self._waiting[key].request.seed, seconds)
            with self._lock:
                done = self._waiting.pop(key)
            for number, row in enumerate(done.rows):
                self._emit(self._row(row, key, result, "found" if number else "drawn"))
        except BaseException as error:  # the thread that draws raises it
            self._fault = error
        finally:
            self._free.release()

    def _fail(self, key: str, error: Exception) -> None:
        with self._lock:
            done = self._waiting.pop(key)
        for row in done.rows:
            kept = self._drawing.reader.kept(row)
            self._emit(BatchRow(row.number, "failed", key, (), done.request.seed, 0.0, error_text(error), kept))

    def _row(self, row: Row, key: str, result: Result, did: Any) -> BatchRow:
        kept = self._drawing.reader.kept(row)
        return BatchRow(row.number, did, key, result.files, result.seed, result.seconds, kept=kept)
