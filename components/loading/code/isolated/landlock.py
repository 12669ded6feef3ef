"""Landlock: a process gives up all files but some, TCP, and signals to processes outside (Linux 5.13 and later).

The numbers are those of linux/landlock.h and of the kernel's page "Landlock: unprivileged access control".
"""

import os
import stat
import struct
from collections.abc import Iterable
from ctypes import create_string_buffer
from functools import cache

from .kernel import syscall

_CREATE, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # system calls; the same on all architectures
_GET_VERSION, _BENEATH_PATH = 1, 1

# LANDLOCK_ACCESS_FS_*
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_REG, _REFER, _TRUNCATE, _IOCTL_DEV = (1 << bit for bit in (7, 8, 13, 14, 15))
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""The number of file rights of each version; later versions have as many as version 5."""
_TCP = 0b11  # LANDLOCK_ACCESS_NET_BIND_TCP and _CONNECT_TCP, version 4
_SCOPES = 0b11  # LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and _SIGNAL, version 6


@cache
def version() -> int:
    """The version of Landlock in this kernel; 0 if it has none or does not allow it."""
    try:
        return syscall(_CREATE, None, 0, _GET_VERSION)
    except OSError:
        return 0


def restrict(read: Iterable[str], write: Iterable[str]) -> None:
    """Leave this thread, and all threads and processes that it starts, only these files.

    It needs `NO_NEW_PRIVS`, and lasts until the process ends. Paths that do not exist are left out.

    Args:
        read: files and folders that may be read, with all that is in them.
        write: files and folders that may be read and written.
    """
    known = version()
    rights = (1 << _FILE_RIGHTS[min(known, 5)]) - 1
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped
    attributes = struct.pack("=QQQ", rights, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    rules = syscall(_CREATE, create_string_buffer(attributes[:size], size), size, 0)
    try:
        for paths, access in ((read, _READ), (write, _WRITE)):
            for path in paths:
                _allow(rules, path, access & rights)
        syscall(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            access &= _OF_FILES
        # struct landlock_path_beneath_attr: allowed_access, parent_fd; packed
        rule = struct.pack("=Qi", access, file)
        syscall(_ADD_RULE, rules, _BENEATH_PATH, create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(file)
