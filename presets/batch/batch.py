"""`sf.batch`: draw a table of requests into a folder."""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from ...graph import Graph, InputError, Problem
from ...graph.memo import memo as new_memo
from ...registry import counted, did_you_mean
from ...registry.progress import ProgressBar
from ..records.files import FORMATS
from .drawing import Drawing
from .manifest import FIELDS, BatchRow, ManifestFile, read_manifest
from .on_ray import RayCluster, draw_on_ray
from .reading import table_of
from .requests import Reader
from .results import Results

_SHOWN = 100
_MEMO_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Batch:
    """A batch that was drawn. Iterating it reads the rows of its manifest.

    folder: with the pictures. manifest: its file; None after a dry run. drawn, found, failed: numbers of rows; in a dry
    run, `drawn` are those that would be. failures: the first 100 rows that failed.
    """

    folder: Path
    manifest: Path | None
    drawn: int
    found: int
    failed: int
    failures: tuple[BatchRow, ...] = ()

    def __len__(self) -> int:
        return self.drawn + self.found + self.failed

    def __iter__(self) -> Iterator[BatchRow]:
        return iter(()) if self.manifest is None else read_manifest(self.manifest)


@dataclass
class _Counts:
    """Counts rows, shows how many there are, and hands them on, from any thread."""

    bar: ProgressBar
    total: int
    give: Callable[[BatchRow], None]
    did: dict[str, int]
    failures: list[BatchRow]
    lock: Lock = field(default_factory=Lock)

    @property
    def failed_rows(self) -> tuple[BatchRow, ...]:
        """Those that failed, in the order of the table."""
        return tuple(sorted(self.failures, key=lambda row: row.row))

    def __call__(self, row: BatchRow) -> None:
        with self.lock:
            self.did[row.did] += 1
            if row.did == "failed" and len(self.failures) < _SHOWN:
                self.failures.append(row)
            done = sum(self.did.values())
        self.give(row)
        self.bar.stage("rows", done, self.total, f"{self.did['failed']} failed" if self.did["failed"] else "")


def batch(
    pipe: Graph,
    table: Any,  # a path, rows or a table of another library
    folder: str | Path,
    *,
    engine: Literal["local", "ray"] | RayCluster = "local",
    at_once: int = 8,
    manifest: str | Path = "manifest.jsonl",
    format: str = "png",
    keep: Collection[str] = (),
    folders: Sequence[str | Path] = (),
    record: bool = True,
    private: Sequence[str] = (),
    dry_run: bool = False,
    on_row: Callable[[BatchRow], None] | None = None,
    progress: bool = True,
    memo: Any = None,  # a Memo
    **values: Any,
) -> Batch:
    """Draw each row of a table, and write its pictures into a folder, with a manifest of all rows.

    A row is a call: its columns are inputs, components, slots and `adapters`. An empty cell is the default. The name of
    a picture is a key of everything that it is drawn from. So a picture that the folder has is not drawn again, after a
    batch that was stopped or a change of the table. A row that fails is listed with its error, and the others go on.

    Args:
        table: a file (.jsonl, .csv, .tsv, .parquet), a list of dicts, or a table of pandas, pyarrow or datasets. Paths
            in a file are relative to its folder.
        folder: for pictures and the manifest. Several processes may use it.
        engine: "local", or "ray" for a cluster on this machine, or an `sf.RayCluster`.
        at_once: so many runs go on side by side, in each process.
        manifest: its name in the folder, or its path: .jsonl or .parquet.
        format: of the pictures: png, jpg, webp, tiff or bmp.
        keep: columns that the manifest copies, and that are no part of a call.
        folders: folders of yours that paths in a file may lead to.
        record: whether pictures get the record of their run. private: inputs that it does not get.
        dry_run: check all rows, and draw none.
        on_row: gets each row that ends, in any thread.
        progress: whether a bar is shown.
        memo: for equal parts of runs; by default a new one.
        values: of all rows, where a row has no cell.

    A row without a seed gets one that is made from its cells, so it is the same each time.

    Raises:
        InputError: unknown columns or values, before anything runs.
        LoadError: a table that cannot be read, or Ray is missing.
        SaveError: the folder cannot be written.
    """
    rows = table_of(table)
    place = Path(folder).expanduser()
    suffix = f".{format.lower().lstrip('.')}"
    file = place / manifest
    _check(at_once, suffix, file, rows.path, keep, engine)
    results = Results(place, suffix, record, tuple(private))
    reader = Reader(pipe, rows, values, tuple(keep), tuple(folders), results.written)
    reader.check()
    drawing = Drawing(reader, results, at_once, new_memo(memory_bytes=_MEMO_BYTES) if memo is None else memo)
    with _bar(shown=progress) as bar:
        count = _Counts(bar, len(rows), on_row or _ignore, dict.fromkeys(("drawn", "found", "failed"), 0), [])
        if dry_run:
            for row in drawing.look(rows.rows()):
                count(row)
            return Batch(place, None, **count.did, failures=count.failed_rows)
        with ManifestFile(file) as lines:

            def emit(row: BatchRow) -> None:
                lines.add(row)
                count(row)

            if engine == "local":
                drawing.draw(rows.rows(), emit)
            elif len(rows):
                draw_on_ray(drawing, rows, RayCluster() if engine == "ray" else engine, emit)
    if failed := count.did["failed"]:
        text = f"{failed} of {counted(len(rows), 'row')} of the batch failed. Their errors are in {file}."
        warnings.warn(text, UserWarning, stacklevel=2)
    return Batch(place, file, **count.did, failures=count.failed_rows)


def _ignore(row: BatchRow) -> None:
    pass


def _bar(*, shown: bool) -> Any:  # a ProgressBar, or one that shows nothing
    return ProgressBar() if shown else _NoBar()


class _NoBar(ProgressBar):
    def __enter__(self) -> "_NoBar":
        return self


def _check(
    at_once: int, suffix: str, manifest: Path, table: Path | None, keep: Collection[str], engine: object
) -> None:
    """InputError with all settings that are wrong."""
    problems: list[Problem] = []
    if at_once < 1:
        problems.append(
            Problem("value", "at_once", f"needs a number of runs, at least 1, got {at_once}.", str(at_once))
        )
    if suffix not in FORMATS:
        known = [name.lstrip(".") for name in FORMATS]
        problems.append(
            Problem("value", "format", f"is no format of pictures. {did_you_mean(suffix[1:], known)}", suffix)
        )
    if manifest.suffix.lower() not in (".jsonl", ".parquet"):
        text = f"needs the suffix .jsonl or .parquet, got {manifest.suffix or 'none'}."
        problems.append(Problem("value", "manifest", text, manifest.suffix))
    if table is not None and manifest.exists() and manifest.samefile(table):
        text = "is the table itself, which would be overwritten. Pass another name."
        problems.append(Problem("value", "manifest", text, str(manifest)))
    if isinstance(keep, str):
        problems.append(Problem("value", "keep", f"needs a list of columns, got a text. Write keep=[{keep!r}].", keep))
    elif taken := [name for name in keep if name in FIELDS]:
        text = f"{taken[0]!r} is a column of each manifest. Rename that column of the table."
        problems.append(Problem("value", "keep", text, taken[0]))
    if not (isinstance(engine, RayCluster) or engine in ("local", "ray")):
        text = f"needs 'local', 'ray' or an sf.RayCluster, got {engine!r}."
        problems.append(Problem("value", "engine", text, type(engine).__name__))
    if problems:
        raise InputError(problems)
