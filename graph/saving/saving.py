"""Save a file or a folder whole or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import SaveError
from . import disk
from .exchange import CannotExchange, exchange
from .work import SUFFIX, Work, beside, refuse_busy, remove_left_overs, work_of


@dataclass(frozen=True)
class Draft:
    """A folder to write into. Its files go into `folder` together, at the end of the save."""

    path: Path
    """Where to write."""
    folder: Path
    """The folder that is saved, in its old state until the end of the save."""
    removed: set[str] = field(default_factory=set[str])

    def remove(self, name: str) -> None:
        """Remove an old file of the folder, by its path in it, unless the save then writes a file of this name."""
        if self.path == self.folder:  # in the draft of another save
            (self.path / name).unlink(missing_ok=True)
        self.removed.add(name)


@contextmanager
def saving_folder(folder: str | os.PathLike[str]) -> Generator[Draft]:
    """Save files into a folder: all of them, or none.

    Write into the draft that `with` gives. At the end of the block its files are flushed to the disk and put in place;
    other files of the folder stay. After an error the folder is unchanged. What ends the process (SIGKILL, a loss of
    power) leaves the old folder or the new one: the draft is exchanged for the folder in one step. Where that is not
    possible, files are replaced one by one, and the next save or reader undoes a save that was interrupted.

    One process saves to a folder at a time; another waits. What killed saves left is removed. A save into the draft of
    another save is part of that one.

    Raises:
        SaveError: the folder cannot be written, or another process saves there for too long.
    """
    shown = Path(folder)
    if _in_draft(shown):
        shown.mkdir(parents=True, exist_ok=True)
        yield Draft(shown, shown)
        return
    with _errors(shown):
        _check_name(shown)
        place = Path(os.path.realpath(shown))
        if place.exists() and not place.is_dir():
            raise SaveError(f"{shown}: is a file, and a folder is needed. Pass another path.")
        with _folders_above(place), _locked(shown, work_of(place)) as work, _errors(shown, work.new, place):
            remove_left_overs(place, work)
            work.new.mkdir()
            draft = Draft(work.new, shown)
            yield draft
            _finish(work, place, draft.removed)


@contextmanager
def saving_file(file: str | os.PathLike[str]) -> Generator[Path]:
    """Save a file whole or not at all: write it to the path that `with` gives.

    The old file is there until the new one is whole and flushed to the disk. See `saving_folder`.

    Raises:
        SaveError: the file cannot be written, or another process saves it for too long.
    """
    shown = Path(file)
    if _in_draft(shown):
        shown.parent.mkdir(parents=True, exist_ok=True)
        yield shown
        return
    with _errors(shown):
        _check_name(shown)
        place = Path(os.path.realpath(shown.parent), shown.name)
        if place.is_dir():
            raise SaveError(f"{shown}: is a folder, and a file is needed. Pass another path.")
        with _folders_above(place), _locked(shown, beside(place)) as work, _errors(shown, work.new, place.parent):
            work.new.mkdir()
            draft = work.new / place.name
            yield draft
            _flush(draft, place)
            os.replace(draft, place)
            disk.sync(place.parent)


def _check_name(path: Path) -> None:
    if "\0" in str(path):
        raise SaveError(f"{str(path)!r}: has a null character, which no path has. Pass another path.")


def _in_draft(path: Path) -> bool:
    return any(part.endswith(SUFFIX) for part in path.parts)


@contextmanager
def _locked(shown: Path, work: Work) -> Generator[Work]:
    try:
        with work.lock():
            remove_left_overs(work.path.parent, work)
            yield work
    except TimeoutError as error:
        raise refuse_busy(shown, error) from None


@contextmanager
def _folders_above(place: Path) -> Generator[None]:
    """Make the folders above a path. After an error, those that were made here and are empty are removed."""
    made = [parent for parent in place.parents if not parent.exists()]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with suppress(OSError):  # another program has put something there
                parent.rmdir()
        raise


def _finish(work: Work, folder: Path, old: Collection[str]) -> None:
    """Put the files of the draft in place, and remove old ones."""
    put = sorted(disk.files_in(work.new))
    removed = [name for name in sorted(old) if name not in put and os.path.lexists(folder / name)]
    for name in put:
        _flush(work.new / name, folder / name)
    if not folder.exists():
        for place, _, _ in os.walk(work.new):
            disk.sync(Path(place))
        os.rename(work.new, folder)
        disk.sync(folder.parent)
        return
    _check_places(folder, put, removed)
    if len(put) == 1 and not removed and (folder / put[0]).parent.is_dir():  # one file is replaced in one step anyway
        os.replace(work.new / put[0], folder / put[0])
        disk.sync((folder / put[0]).parent)
    elif put or removed:
        try:
            exchange(folder, work, removed)
        except CannotExchange:
            work.replace(folder, put, removed)


def _check_places(folder: Path, put: list[str], removed: list[str]) -> None:
    """Refuse folders that are read-only, links to other folders, and names that are taken by files or folders.

    An exchange could replace a read-only folder, but its owner has forbidden changes in it.
    """
    for name in put:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            raise SaveError(f"{folder / name}: is a folder, and the save has a file of this name. Pass another folder.")
    for place in {parent for name in (*put, *removed) for parent in (folder / name).parents}:
        if place == folder or folder in place.parents:
            if place.is_symlink():
                raise SaveError(
                    f"{place}: is a link to a folder, and a save replaces whole folders. Put it there itself."
                )
            if os.path.lexists(place) and not place.is_dir():
                raise SaveError(f"{place}: is a file, and the save has a folder of this name. Pass another folder.")
            if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


def _flush(new: Path, old: Path) -> None:
    """Flush a file to the disk. It gets the permissions of the file that it replaces."""
    if new.is_symlink():
        return
    if old.is_file() and not old.is_symlink():
        shutil.copymode(old, new)
    disk.sync(new)


@contextmanager
def _errors(shown: Path, draft: Path | None = None, place: Path | None = None) -> Generator[None]:
    """Raise errors of the system as SaveErrors that name the path and say what to do.

    Args:
        shown: the path that the user passed.
        draft, place: a path in the draft is shown as the one in the place.
    """
    try:
        yield
    except OSError as error:
        where = shown
        reason = error.strerror or str(error)
        if isinstance(error.filename, str):
            named = Path(error.filename)
            if draft and place and named.is_relative_to(draft):
                where = place / named.relative_to(draft)
            elif place and named.is_relative_to(place):
                where = named
            elif not _in_draft(named) and str(named) not in (os.path.abspath(shown), os.path.realpath(shown)):
                reason = f"{reason}: {named}"
        raise SaveError(f"{where}: cannot be written ({reason}). {_advice(error.errno)}") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise SaveError(
            f"{shown}: cannot be written: a text has {half!r}, which is half of a letter. Write the letter itself."
        ) from error
    except MemoryError as error:
        raise SaveError(f"{shown}: cannot be written, since the memory is exhausted. {_MEMORY}") from error
    except Exception as error:
        if isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)):
            raise SaveError(f"{shown}: cannot be written, since the memory is exhausted. {_MEMORY}") from error
        if type(error).__module__.startswith("safetensors"):  # its writer has no other class for errors of the system
            raise SaveError(f"{shown}: cannot be written ({error}). {_advice_by_text(str(error))}") from error
        raise


_NO_MEMORY = re.compile(r"allocate memory|out of memory|not enough memory")
"""The words of torch for an allocation that failed."""
_MEMORY = "Free memory, or save the components one by one."
_FULL = "Make room, or pass a path on another disk."
_FORBIDDEN = "Change the permissions, or pass a path that you may write to."
_TOO_LARGE = "Raise the limit of this process (ulimit -f), or pass a path on another disk."


def _advice(code: int | None) -> str:
    match code:
        case errno.ENOSPC | errno.EDQUOT:
            return _FULL
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return _FORBIDDEN
        case errno.EFBIG:
            return _TOO_LARGE
        case errno.ENAMETOOLONG:
            return "Pass a shorter path."
        case errno.ENOMEM:
            return _MEMORY
        case _:
            return "Pass another path."


def _advice_by_text(text: str) -> str:
    """The advice for an error of the system that is there as text only: "… (os error 28)"."""
    return next((_advice(code) for code in errno.errorcode if f"(os error {code})" in text), _advice(None))
