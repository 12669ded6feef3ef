"""Exchange a folder for its draft in one step, with the other files of the folder in it as links."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from . import disk
from .work import SUFFIX, Work

_MOST_LINKS = 1000
"""With more files of others, as in a folder of projects, files are replaced one by one."""


class CannotExchange(Exception):
    """The folder cannot be exchanged: files have to be replaced one by one."""


def exchange(folder: Path, work: Work, removed: Collection[str]) -> None:
    """Put the draft in place of the folder, in one step.

    Files that the save neither writes nor removes are linked into the draft first; they stay the same files. A file
    that another program adds meanwhile is moved afterwards.

    Raises:
        CannotExchange: the folder is unchanged.
    """
    if work.path.parent == folder or _is_working_folder(folder):
        raise CannotExchange
    try:
        found = _link_others(folder, work.new, removed)
        for place in [work.new, *(work.new / name for name in _folders_in(work.new))]:
            disk.sync(place)
        disk.exchange(work.new, folder)
    except OSError as error:
        raise CannotExchange from error
    disk.sync(folder.parent)
    _move_new_ones(work.new, folder, found)


def _is_working_folder(folder: Path) -> bool:
    """Whether the working directory is in the folder. After an exchange it would be in a removed one."""
    with suppress(OSError):
        return Path.cwd().is_relative_to(folder)
    return False


def _link_others(folder: Path, draft: Path, removed: Collection[str]) -> dict[str, int]:
    """Link the files of a folder that the draft lacks into the draft. Returns all files of the folder with inodes."""
    found: dict[str, int] = {}
    device = folder.stat().st_dev

    def link(inside: str) -> None:
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.stat(follow_symlinks=False).st_dev != device:
                        raise CannotExchange  # another disk is mounted there
                    if entry.name.endswith(SUFFIX):
                        with Work(folder / name).lock(seconds=0):  # what a killed save into this folder left
                            continue
                    (draft / name).mkdir(exist_ok=True)
                    link(f"{name}/")
                    continue
                found[name] = entry.inode()
                if name not in removed and not os.path.lexists(draft / name):
                    os.link(folder / name, draft / name, follow_symlinks=False)
                if len(found) > _MOST_LINKS:
                    raise CannotExchange
        disk.copy_attributes(folder / inside, draft / inside)

    link("")
    return found


def _move_new_ones(old: Path, folder: Path, found: dict[str, int]) -> None:
    """Move the files that another program wrote into the old folder after its files were linked."""
    for name in list(disk.files_in(old)):
        with suppress(OSError):
            if found.get(name) != (old / name).lstat().st_ino:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(old / name, folder / name)


def _folders_in(folder: Path) -> list[str]:
    return [os.path.relpath(os.path.join(place, name), folder) for place, names, _ in os.walk(folder) for name in names]
