"""Tables of every kind: files, rows in memory, and tables of other libraries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...graph import InputError, LoadError, Problem
from ...registry import printable
from .parquet_files import ParquetTable
from .table import Cells, RowsInMemory, Table
from .text_files import CsvText, JsonLines


def table_of(data: Any) -> Table:  # a path, rows or a table of another library
    """The table in a file (.csv, .tsv, .jsonl, .parquet), a list of dicts, or a table of pandas, pyarrow or datasets.

    Raises:
        LoadError: a file that is missing or no table.
        InputError: a value of another kind.
    """
    if isinstance(data, Table):
        return data
    if isinstance(data, str | Path):
        return _file_table(Path(data).expanduser())
    if isinstance(data, list | tuple):
        listed = cast("Sequence[object]", data)
        if all(isinstance(row, Mapping) for row in listed):
            return RowsInMemory(cast("Sequence[Cells]", listed))
    kind, other = type(data).__name__, cast("Any", data)  # a table of another library, which may be missing
    match type(data).__module__.partition(".")[0], kind:
        case "pandas", "DataFrame":
            frame = other.convert_dtypes()  # else whole numbers beside empty cells are floats
            return RowsInMemory(frame.astype(object).where(frame.notna(), None).to_dict("records"))
        case "pyarrow", "Table":
            return RowsInMemory(other.to_pylist())
        case "datasets", "Dataset":
            return RowsInMemory(other)
        case _:
            pass
    text = f"needs a file, a list of dicts, or a table of pandas, pyarrow or datasets, got {kind}."
    raise InputError(Problem("value", "table", text, kind))


def _file_table(path: Path) -> Table:
    shown = printable(str(path))
    if not path.is_file():
        raise LoadError(f"{shown}: there is no such file. Pass a table: .jsonl, .csv, .tsv or .parquet.")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return JsonLines(path)
        case ".csv" | ".tsv":
            return CsvText(path, "\t" if path.suffix.lower() == ".tsv" else ",")
        case ".parquet":
            return ParquetTable(path)
        case suffix:
            raise LoadError(
                f"{shown}: {suffix or 'no suffix'} is no kind of table. Use .jsonl, .csv, .tsv or .parquet."
            )
