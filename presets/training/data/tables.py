"""Tables of pictures through Hugging Face's `datasets`: parquet files, repos of the Hub, and rows in memory."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from ....blocks.image.place import Stored
from ....components.storage.hub import is_repo
from ....graph.errors import LoadError
from ....graph.files.inside import path_inside
from ....registry import printable
from .columns import CAPTIONS, CONTROLS, IMAGES, MASKS, captions_in, find_key, key_of
from .folder import Found
from .source import Record, Source

Table = Any
"""A `datasets.Dataset`, whose package may be missing, or a sequence of rows."""


SAVED = "state.json", "dataset_dict.json"
"""The files of a folder that `datasets.Dataset.save_to_disk` wrote."""


def read_table(files: Sequence[Path], source: Source) -> Found:
    """The pictures of parquet files. Their contents are in the files themselves, or beside them."""
    table = _loaded(source, _datasets().Dataset.from_parquet, list(map(str, files)))
    return Found(_Rows(table, source, (files[0].parent,)))


def read_saved(folder: Path, source: Source) -> Found:
    """The pictures of a folder that `save_to_disk` wrote."""
    return Found(_Rows(_one_split(_loaded(source, _datasets().load_from_disk, str(folder)), source), source, (folder,)))


def read_repo(source: Source) -> Found:
    """The pictures of a repo of datasets on the Hub. LoadError for a name that is no repo, or one without answer."""
    name = str(source.data)
    if not is_repo(name):
        raise LoadError(f"{printable(name)}: there is no such folder or file, and it is no repo of the Hub.")
    datasets = _datasets()
    table = _loaded(source, datasets.load_dataset, name, split=source.split, revision=source.revision)
    caches = datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE
    return Found(_Rows(_one_split(table, source), source, tuple(map(Path, caches))))


def read_rows(source: Source) -> Found:
    """The pictures of a `datasets.Dataset`, or of rows in memory."""
    table = source.data
    if isinstance(table, list | tuple):
        return Found(_Rows(cast("Sequence[Any]", table), source, None))
    datasets = _datasets()
    if isinstance(table, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise LoadError("An IterableDataset has no order that can be repeated. Load it without streaming=True.")
    table = _one_split(table, source)
    if not isinstance(table, datasets.Dataset):
        raise LoadError(f"Needs a folder, a repo, a datasets.Dataset or a list of rows, got {type(table).__name__}.")
    return Found(_Rows(table, source, None))


def _datasets() -> Any:  # the module, whose types pyright does not know
    try:
        import datasets
    except ImportError as error:
        raise LoadError(
            'Tables of pictures need datasets, which is not installed. Run: pip install "sfumato[train]"'
        ) from error
    return datasets


def _loaded(source: Source, load: Callable[..., Table], name: str | Sequence[str], **keywords: Any) -> Table:
    """What a function of `datasets` loads, without its progress bars and logs. LoadError for whatever it raises."""
    datasets = _datasets()
    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        return load(name, **keywords)
    except Exception as error:  # pyarrow, fsspec and the Hub's client raise errors of many classes
        text = printable(str(error.__cause__ or error).partition("\n")[0].rstrip("."))
        raise LoadError(f"{source.title}: cannot be read as a table ({text}). Look at the file, or load it with "
                        "datasets and pass that.") from error  # fmt: skip
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def _one_split(table: Table, source: Source) -> Table:
    if not isinstance(table, Mapping):
        return table
    splits = cast("Mapping[str, Any]", table)
    name = source.split or ("train" if "train" in splits else next(iter(splits), ""))
    if name not in splits or (source.split is None and len(splits) > 1 and "train" not in splits):
        raise LoadError(f"{source.title}: has the splits {', '.join(splits)}. Set split= of the Source to one of them.")
    return splits[name]


class _Rows(Sequence[Record]):
    """The rows of a table as records. A row is read when it is looked up.

    places: the folders in which files that a row names may be; None where the program itself made the rows.
    """

    def __init__(self, table: Table, source: Source, places: Sequence[Path] | None) -> None:
        self._source, self._places = source, places
        columns = list(getattr(table, "column_names", ()) or (table[0] if len(table) else ()))
        where = source.title
        known = (*IMAGES, *(n for n in _picture_columns(table) if n not in (*MASKS, *CONTROLS)))
        self._image = key_of(columns, known, source.image, where, "pictures")
        self._text = find_key(columns, CAPTIONS, source.text, where, "captions")
        self._mask = find_key(columns, MASKS, source.mask, where, "masks")
        self._control = find_key(columns, CONTROLS, source.control, where, "control pictures")
        for name in _picture_columns(table):
            table = table.cast_column(name, _datasets().Image(decode=False))  # ours is the one reader of pictures
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:  # a record, or a list of them for a slice
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = cast("Mapping[str, Any]", self._table[index])
        where = f"{self._source.title}, row {index}"
        try:
            return self._record(row, where)
        except KeyError as error:
            raise LoadError(f"{where}: has no column {error}. All rows need the columns of the first.") from None

    def _record(self, row: Mapping[str, Any], where: str) -> Record:
        return Record(
            _name(row, row[self._image], where),
            self._stored(row[self._image], where),
            captions_in(row[self._text], where) if self._text else (),
            None if not self._mask or row[self._mask] is None else self._stored(row[self._mask], where),
            None if not self._control or row[self._control] is None else self._stored(row[self._control], where),
        )

    def _stored(self, cell: Any, where: str) -> Stored:
        if isinstance(cell, Mapping):
            inner = cast("Mapping[str, Any]", cell)
            cell = inner.get("bytes") or inner.get("path")
        if isinstance(cell, bytes | Image.Image):
            return cell
        if isinstance(cell, str | os.PathLike):
            path = Path(cast("str", cell))
            return path if self._places is None else _inside(path, self._places, where)
        raise LoadError(f"{where}: needs a picture, its bytes or its path, got {type(cell).__name__}.")


def _inside(path: Path, places: Sequence[Path], where: str) -> Path:
    try:
        return path_inside(path, places[0], places, way="")
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None


def _picture_columns(table: Table) -> list[str]:
    """The columns that `datasets` knows to be pictures."""
    features = getattr(table, "features", None) or {}
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def _name(row: Mapping[str, Any], cell: Any, where: str) -> str:
    path = cast("Mapping[str, Any]", cell).get("path") if isinstance(cell, Mapping) else None
    key = row.get("__key__") or row.get("file_name") or path
    return str(key) if key else where
