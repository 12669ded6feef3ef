"""The work folder of a save: its lock, the draft, and the files that undo a save which replaces files one by one.

A work folder is beside the file or folder that is saved, or inside it where the folder above cannot be used:

    .mine.sfumato-save/     beside "mine"
        lock                held while a process saves
        new/                the draft: the files of the save
        old/                files that were replaced, while files are replaced one by one
        undo.json           there only while files are replaced one by one
"""

import errno
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import Any

from ..errors import LoadError, SaveError
from . import disk

SUFFIX = ".sfumato-save"
WAIT_SECONDS = 60.0
"""The longest time that a save waits for another one of the same folder."""
_NAME_BYTES = 255  # the longest name of a file that Linux, macOS and Windows have
_LOG = "undo.json"
_LOG_BYTES = 16 * 2**20
_LEVELS = 3  # a component's file, its pipeline's folder, and the folder of that


@dataclass(frozen=True)
class Work:
    """A work folder. `lock` makes it."""

    path: Path

    @property
    def new(self) -> Path:
        """The draft."""
        return self.path / "new"

    @property
    def old(self) -> Path:
        """The files that a save replaces one by one."""
        return self.path / "old"

    @property
    def log(self) -> Path:
        """The file that lists the steps to undo."""
        return self.path / _LOG

    @contextmanager
    def lock(self, seconds: float | None = None) -> Generator[None]:
        """Hold the lock. What an earlier save left in the folder is undone and removed first; the folder goes at the
        end. seconds: how long to wait for it; None for `WAIT_SECONDS`.

        Raises:
            TimeoutError: another process or thread held the lock all these seconds.
            OSError: the folder cannot be made or read.
        """
        from filelock import FileLock, Timeout

        while True:
            if self.path.is_symlink():  # a folder from others may have one, and what it leads to is not ours to remove
                raise OSError(errno.ELOOP, "is a link, and a work folder is needed", str(self.path))
            self.path.mkdir(exist_ok=True)
            lock = FileLock(self.path / "lock", thread_local=False)
            try:
                lock.acquire(timeout=WAIT_SECONDS if seconds is None else seconds)
                break
            except Timeout:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(self.path)) from None
            except FileNotFoundError:
                continue  # the process that had the lock has removed the folder
        try:
            self.undo()
            self._empty()
            yield
        finally:
            if not self.log.exists():  # else undoing failed, and `old` has the only copies
                with suppress(OSError):
                    self._empty()
                if os.name == "nt":  # Windows removes no open file; one that another process has opened stays
                    lock.release()
                with suppress(OSError):
                    (self.path / "lock").unlink()
                    self.path.rmdir()
            lock.release()

    def _empty(self) -> None:
        """Remove all but the lock."""
        for path in self.path.iterdir():
            if path.is_dir():
                disk.remove(path)
            elif path.name != "lock":
                path.unlink(missing_ok=True)

    def replace(self, target: Path, put: Sequence[str], removed: Sequence[str]) -> None:
        """Replace files of a folder one by one by those of the draft, and remove files; all of it or nothing.

        Until the end, `undo.json` says how to go back, so a crash in between leaves a folder that the next save or
        reader brings back to its old state. Files in the folder itself are taken away first and put last, indexes after
        all others: a folder without an index is loaded by no one.

        Args:
            target: the folder.
            put: the files of the draft that go into the folder.
            removed: files of the folder that go.
        """
        put = sorted(put, key=lambda name: ("/" not in name, name.endswith("index.json"), name))
        taken = [name for name in (*removed, *reversed(put)) if os.path.lexists(target / name)]
        parents = {str(parent) for name in put for parent in PurePosixPath(name).parents}
        made = sorted(name for name in parents if not (target / name).is_dir())
        self._write_log(target, put, made)
        try:
            for name in taken:
                (self.old / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(target / name, self.old / name)
            for name in made:
                (target / name).mkdir()
            for name in put:
                os.rename(self.new / name, target / name)
            for name in {".", *parents, *(str(PurePosixPath(name).parent) for name in removed)}:
                if (target / name).is_dir():
                    disk.sync(target / name)
            self.log.unlink()
        except BaseException:
            self.undo()
            raise
        disk.sync(self.path)

    def _write_log(self, target: Path, put: Sequence[str], made: Sequence[str]) -> None:
        log = {
            "target": os.path.relpath(target, self.path),
            "put": put,
            "made": made,
            "inode": self.path.stat().st_ino,
        }
        draft = self.path / "undo.json.draft"
        draft.write_text(json.dumps(log), encoding="utf-8")
        disk.sync(draft)
        os.rename(draft, self.log)
        disk.sync(self.path)

    def undo(self) -> None:
        """Bring the folder back to its state before a save that replaced files one by one and did not end.

        It can be repeated after any interruption: a file of `put` is in the folder only if the draft lacks it.
        """
        if not self.log.exists():
            return
        log = self._read_log()
        target = self.path / log["target"]
        for name in log["put"]:
            if not os.path.lexists(self.new / name) and os.path.lexists(target / name):
                os.rename(target / name, self.new / name)
        for name in sorted(disk.files_in(self.old)):
            os.rename(self.old / name, target / name)
        for name in reversed(log["made"]):
            with suppress(OSError):
                (target / name).rmdir()
        disk.sync(target)
        self.log.unlink()

    def _read_log(self) -> dict[str, Any]:
        """The log, if this folder's own save has written it: its paths lead nowhere else, and the inode is ours.

        A folder from others may have such a file too. It cannot know the inode that it gets here.
        """
        try:
            status = self.log.lstat()
            if not S_ISREG(status.st_mode) or status.st_size > _LOG_BYTES:
                raise ValueError
            log: dict[str, Any] = json.loads(self.log.read_text(encoding="utf-8"))
            names = [PurePosixPath(name) for name in (*log["put"], *log["made"])]
            inside = not any(name.is_absolute() or ".." in name.parts for name in names)
            target = self.path / log["target"]
            known = inside and log["inode"] == self.path.stat().st_ino and self in (beside(target), within(target))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            known, log = False, {}
        if not known:
            raise OSError(errno.EINVAL, "it was copied, or it is of another program", str(self.log))
        return log


def beside(target: Path) -> Work:
    """The work folder beside a file or folder."""
    target = Path(os.path.abspath(target))
    return Work(target.parent / _name_of(target.name))


def _name_of(target: str) -> str:
    """The name of the work folder beside a file or folder of this name."""
    name = f".{target}{SUFFIX}"
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = f".{hashlib.sha256(os.fsencode(target)).hexdigest()}{SUFFIX}"
    return name


def within(folder: Path) -> Work:
    """The work folder inside a folder."""
    return Work(Path(os.path.abspath(folder)) / SUFFIX)


def work_of(folder: Path) -> Work:
    """The work folder of a folder: beside it, or inside it where the one above is read-only or on another disk."""
    above = folder.parent
    if not folder.exists() or (os.access(above, os.W_OK | os.X_OK) and disk.on_one_mount(above, folder)):
        return beside(folder)
    return within(folder)


def remove_left_overs(folder: Path, own: Work) -> None:
    """Remove the work folders in a folder whose processes have ended. Those of running ones stay, and so does `own`."""
    with suppress(OSError), os.scandir(folder) as entries:
        for path in [Path(e.path) for e in entries if e.name.endswith(SUFFIX) and e.is_dir(follow_symlinks=False)]:
            if path != own.path:
                with suppress(OSError), Work(path).lock(seconds=0):
                    pass


def undo_interrupted(folder: Path) -> None:
    """Bring a folder back to its old state if a save into it or into a folder above it was interrupted.

    Readers call it first. It does nothing where saves exchange whole folders.

    Raises:
        LoadError: the save is still running, or it cannot be undone.
    """
    place = os.path.realpath(folder)
    for _ in range(_LEVELS):  # plain paths: a load reads a hundred files, and each asks
        above, name = os.path.split(place)
        for path in (os.path.join(above, _name_of(name)), os.path.join(place, SUFFIX)):
            if os.path.exists(os.path.join(path, _LOG)):
                _undo(Work(Path(path)), place)
        if above == place:
            break
        place = above


def _undo(work: Work, place: str) -> None:
    try:
        with work.lock():
            pass
    except OSError as error:
        raise LoadError(
            f"{place}: a save was interrupted, and it cannot be undone ({error.strerror or error}). Its "
            f"files are in {work.path}. Save the pipeline again, or remove that folder to read the rest."
        ) from error


def refuse_busy(target: Path, error: TimeoutError) -> SaveError:
    """The error for a target that another process saves."""
    return SaveError(
        f"{target}: another process or thread is saving there, and has not ended in {WAIT_SECONDS:g} seconds. Save "
        f"again after it ends, or pass another path. Its work folder is {error.filename}."
    )
