"""Folders of pictures: captions in text files beside them, or in `metadata.jsonl` and `metadata.csv`."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from ....graph.errors import LoadError
from ....graph.files.inside import path_inside
from ....graph.json_text import JsonTextError, parse, read_text
from ....registry import printable
from .columns import CAPTIONS, CONTROLS, MASKS, captions_in, find_key, key_of
from .source import Record, Source

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif")
TEXTS = (".txt", ".caption", ".tags")
"""The ends of files with the caption of the picture of the same name, the first that is there."""
METADATA = ("metadata.jsonl", "metadata.csv")
_FILE = ("file_name", "image", "file", "path")
_MASK_END = "-masklabel"


@dataclass(frozen=True)
class Skipped:
    """A picture, or a caption, that is not used. reason: with the way out."""

    name: str
    reason: str


@dataclass
class Found:
    """The pictures of a source, and what is left out."""

    records: Sequence[Record] = field(default_factory=list[Record])
    skipped: list[Skipped] = field(default_factory=list[Skipped])


def read_folder(folder: Path, source: Source) -> Found:
    """All pictures in a folder and in the folders inside it, by name, with their captions.

    Raises:
        LoadError: a file of metadata that cannot be read, or that names a place outside its folder.
    """
    files = _files(folder)
    found = Found()
    listed: dict[Path, Record] = {}
    for file in (f for f in files if f.name in METADATA):
        listed |= _listed(file, source, found.skipped)
    pictures = [f for f in files if f.suffix.lower() in PICTURES and not f.stem.endswith(_MASK_END)]
    named = {path for record in listed.values() for path in (record.mask, record.control) if isinstance(path, Path)}
    texts = {(f.parent, f.stem): f for end in reversed(TEXTS) for f in files if f.suffix.lower() == end}
    names = {f: f.relative_to(folder).as_posix() for f in pictures if f not in named}
    records = [
        _beside(replace(listed[f], name=name) if f in listed else Record(name, f), f, texts)
        for f, name in names.items()
    ]  # fmt: skip
    stems = {(f.parent, f.stem) for f in pictures}
    for key, file in texts.items():
        if key not in stems:
            reason = "is a caption without a picture. Put the picture beside it under the same name."
            found.skipped.append(Skipped(file.relative_to(folder).as_posix(), reason))
    found.records = _with_partners(records, folder, source)
    return found


def read_listed(file: Path, source: Source) -> Found:
    """The pictures that a file of metadata names, in its order."""
    found = Found()
    listed = list(_listed(file, source, found.skipped).values())
    found.records = _with_partners(listed, file.parent, source)
    return found


def _files(folder: Path) -> list[Path]:
    """All files, in the order of their paths, without hidden ones."""
    return sorted(
        (f for f in folder.rglob("*") if not any(p.startswith(".") for p in f.relative_to(folder).parts)),
        key=lambda f: f.relative_to(folder).as_posix(),
    )


def _beside(record: Record, picture: Path, texts: Mapping[tuple[Path, str], Path]) -> Record:
    """The record with the caption and the mask beside its picture, where it has none."""
    file = texts.get((picture.parent, picture.stem))
    if file is not None and not record.captions:
        record = replace(record, captions=(_text(file, "caption_bytes"),))
    if record.mask is None and (mask := picture.with_name(f"{picture.stem}{_MASK_END}.png")).is_file():
        record = replace(record, mask=mask)
    return record


def _with_partners(records: Sequence[Record], folder: Path, source: Source) -> list[Record]:
    """The records with masks and control pictures from the folders of the source.

    Raises:
        LoadError: a picture without its partner. All are listed.
    """
    made = list(records)
    for kind, where in (("mask", source.masks), ("control", source.controls)):
        if where is None:
            continue
        other = Path(os.path.abspath(Path(where).expanduser()))
        if not other.is_dir():
            raise LoadError(f"{kind}s={where}: there is no such folder.")
        partners = {f.relative_to(other).with_suffix("").as_posix(): f for f in _files(other) if _is_picture(f)}
        inside = {f for f in partners.values() if f.is_relative_to(folder)}
        made = [record for record in made if record.picture not in inside]
        names = [Path(record.name).with_suffix("").as_posix() for record in made]
        if missing := [record.name for record, name in zip(made, names, strict=True) if name not in partners]:
            what = "a mask" if kind == "mask" else "a control picture"
            raise LoadError(f"{other}: needs {what} of the same name for each picture, and has none for "
                            f"{shown(missing)}.")  # fmt: skip
        made = [replace(r, **{kind: partners[name]}) for r, name in zip(made, names, strict=True)]
    return made


def shown(names: Sequence[str]) -> str:
    """Some of the names, for an error."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(printable, names[:5])) + more


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES


# ------------------------------------------------------------------------------------------------ files of metadata
def _listed(file: Path, source: Source, skipped: list[Skipped]) -> dict[Path, Record]:
    """The records of a file of metadata, by their pictures. Rows whose picture is missing are skipped."""
    records: dict[Path, Record] = {}
    for number, row in _rows(file):
        where = f"{file}, row {number}"
        column = key_of(row, _FILE, source.image, where, "names of pictures")
        path = _path(row[column], file.parent, where)
        mask, control = (
            _path(row[key], file.parent, where)
            if (key := find_key(row, known, wanted, where, what)) and row[key]
            else None
            for known, wanted, what in ((MASKS, source.mask, "masks"), (CONTROLS, source.control, "control pictures"))
        )
        if not path.is_file():
            reason = f"is in row {number} of {file.name}, but there is no such file. Put it there, or remove the row."
            skipped.append(Skipped(printable(str(row[column])), reason))
            continue
        text = find_key(row, CAPTIONS, source.text, where, "captions")
        captions = captions_in(row[text], where) if text else ()
        records[path] = Record(_name(path, file.parent), path, captions, mask, control)
    return records


def _path(name: Any, folder: Path, where: str) -> Path:  # Any: a cell of a table
    try:
        return path_inside(str(name), folder, way="")
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder.absolute()).as_posix() if path.is_relative_to(folder.absolute()) else path.name


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a file of metadata, each with its number."""
    text = _text(file, "metadata_bytes")
    if file.suffix == ".csv":
        try:
            yield from enumerate(csv.DictReader(io.StringIO(text, newline=""), strict=True), 1)
        except csv.Error as error:
            raise LoadError(f"{file}: is no table in CSV ({error}). Correct that row.") from None
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except JsonTextError as error:
            raise LoadError(f"{file}: row {number} {error}") from None
        if not isinstance(row, dict):
            raise LoadError(f'{file}: row {number} needs to be an object: {{"file_name": "a.png", "text": "a fox"}}.')
        yield number, cast("dict[str, Any]", row)


def _text(file: Path, most: str) -> str:
    try:
        return read_text(file, most)
    except JsonTextError as error:
        raise LoadError(f"{file}: {error}") from None
    except OSError as error:
        raise LoadError(f"{file}: cannot be read ({error.strerror}).") from None
