"""The calls of the operating system that saving needs: flush to the disk, exchange two folders, remove one."""

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_AT_FDCWD = -100  # of Linux; fcntl.h
_RENAME_EXCHANGE = 2  # of Linux, linux/fs.h; and RENAME_SWAP of macOS, sys/stdio.h
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
"""Errors of file systems that cannot flush a folder."""


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it survives a loss of power. OSError if the disk is full."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def files_in(folder: Path) -> Iterator[str]:
    """The paths of all files and links below a folder, relative to it, with "/". Links are not followed."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in (*files, *links):
            yield Path(place, name).relative_to(folder).as_posix()


def exchange(one: Path, other: Path) -> None:
    """Exchange two folders in one step. OSError where the system or the file system cannot do that."""
    if not can_exchange():
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    first, second = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        failed = _library().renamex_np(first, second, ctypes.c_uint(_RENAME_EXCHANGE))
    else:
        failed = _library().renameat2(_AT_FDCWD, first, _AT_FDCWD, second, ctypes.c_uint(_RENAME_EXCHANGE))
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


@cache
def can_exchange() -> bool:
    """Whether the system has the function. The file system may still refuse."""
    return hasattr(_library(), "renamex_np" if sys.platform == "darwin" else "renameat2")


@cache
def _library() -> Any:  # the C library, whose functions have no types
    try:
        return ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):  # Windows has none of this name
        return None


def on_one_mount(folder: Path, other: Path) -> bool:
    """Whether a file can be renamed from one folder into the other. Nothing is written.

    Linux compares the mounts before it looks for the file, so that a bind mount of the same disk is found too.
    """
    if folder.stat().st_dev != other.stat().st_dev:
        return False
    try:
        os.rename(folder / ".sfumato-no-such-file", other / ".sfumato-no-such-file")
    except OSError as error:
        return error.errno != errno.EXDEV
    return True


def copy_attributes(source: Path, target: Path) -> None:
    """Give a folder the owner and the permissions of another. OSError if the owner cannot be set."""
    old, new = source.stat(), target.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(target, old.st_uid, old.st_gid)
    shutil.copystat(source, target)
    os.utime(target)  # its content is new: Python's importer, for example, compares the times of folders


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, read-only folders too. What cannot be removed stays."""
    if folder.is_symlink():
        folder.unlink()
        return
    for place, folders, _ in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in folders)):
            with suppress(OSError):
                if not os.path.islink(path):
                    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)
