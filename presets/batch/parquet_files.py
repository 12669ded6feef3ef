"""Tables in parquet files, and manifests written as such. They need pyarrow."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...graph import LoadError
from ...registry import printable
from .table import Row, Table, without_empty


class ParquetTable(Table):
    """The rows of a parquet file.

    Raises:
        LoadError: pyarrow is missing, or the file is no parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.title, self.folder = printable(path.name), path.absolute().parent
        self.path = self._path = path.absolute()
        file = self._open()
        self._columns: list[str] = list(file.schema_arrow.names)
        self._counts = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]

    @property
    def columns(self) -> Sequence[str]:
        """The names of all columns."""
        return self._columns

    def __len__(self) -> int:
        return sum(self._counts)

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """The rows from `start` to `stop`."""
        stop, first = len(self) if stop is None else min(stop, len(self)), 0
        file = self._open()
        for group, count in enumerate(self._counts):
            if first < stop and first + count > start:
                place = first
                for part in file.iter_batches(batch_size=256, row_groups=[group]):
                    for number in range(max(start - place, 0), min(stop - place, part.num_rows)):
                        cells = part.slice(number, 1).to_pylist()[0]
                        yield Row(place + number + 1, without_empty(cells))
                    place += part.num_rows
            first += count

    def _open(self) -> Any:  # a ParquetFile, whose types pyright does not know
        parquet = parquet_module()
        try:
            return parquet.ParquetFile(self._path)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            text = printable(str(error).partition("\n")[0].rstrip("."))
            raise LoadError(f"{self.title}: cannot be read as a parquet file ({text}).") from error


def parquet_module() -> Any:  # pyarrow.parquet
    """pyarrow's reader and writer of parquet files. LoadError if it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise LoadError(
            'Parquet files need pyarrow, which is not installed. Run: pip install "sfumato[ray]"'
        ) from error
    return parquet


def write_parquet(lines: Path, file: Path) -> None:
    """Write JSON lines as a parquet file."""
    from pyarrow import json

    parquet_module().write_table(json.read_json(lines), file)
