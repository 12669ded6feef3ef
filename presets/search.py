"""Files and folders that a text from elsewhere names: found in folders that the user chose, by name or by hash."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ..graph import LoadError
from ..graph.files.inside import path_inside
from ..graph.limits import AboveLimit, check_limit
from ..graph.memo.contents import file_key
from ..registry import printable


def found_path(name: str, folders: Sequence[Path], sha256: str | None) -> Path:
    """The file or folder whose path ends with `name` ("./last/parts"), in one of the folders or below.

    sha256: of several files of that name, the one with these contents is taken.

    Raises:
        LoadError: none, several, or a name that leads out of the folder.
    """
    tail = PurePosixPath(name)
    shown = printable(name.removeprefix("./"))
    found: dict[str, Path] = {}
    for folder in folders:
        if (direct := path_inside(name, folder)).exists():
            return direct
        for path in walk(folder):
            if path.parts[-len(tail.parts) :] == tail.parts:
                found.setdefault(os.path.realpath(path), path)
    paths = list(found.values())
    if len(paths) > 1 and sha256 is not None:
        paths = [path for path in paths if path.is_file() and file_key(path) == sha256] or paths
    if len(paths) == 1:
        return paths[0]
    places = ", ".join(printable(str(folder)) for folder in folders) or "no folder"
    if not paths:
        raise LoadError(f"{shown}: is not in {places}. Pass folder=, the folder that it is in.")
    several = ", ".join(printable(str(path)) for path in paths[:5])
    raise LoadError(f"{shown}: there are several in {places}: {several}. Pass folder=, the folder of one of them.")


def walk(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder; no links to folders are followed. LoadError for more than `repo_files`."""
    count = 0
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in (*folders, *sorted(files)):
            count += 1
            try:
                check_limit("repo_files", count, whole=False)
            except AboveLimit as error:
                raise LoadError(f"{printable(str(folder))}: {error}") from None
            yield Path(place, name)
