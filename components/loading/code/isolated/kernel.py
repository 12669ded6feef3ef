"""Functions of the Linux kernel that Python's library does not have, by ctypes."""

import contextlib
import ctypes
import os
import sys

LINUX = sys.platform == "linux"
PARENT_DEATH_SIGNAL, GET_DUMPABLE, DUMPABLE, KEEP_CAPABILITIES, SUBREAPER, NO_NEW_PRIVS = 1, 3, 4, 8, 36, 38
"""Options of prctl(2), from linux/prctl.h."""
CAN_READ_ALL = 2
"""CAP_DAC_READ_SEARCH of linux/capability.h: read files whatever their owner and mode."""

PIPE_BYTES = 2**20
USERS = range(61184, 65520)
"""User ids that no account has: systemd keeps them for services that get a user while they run."""

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel. OSError if it refuses; ENOSYS where there is no Linux."""
    return _checked("syscall", number, *arguments)


def prctl(option: int, value: int = 0) -> int:
    """prctl(2). OSError if the kernel refuses; ENOSYS where there is no Linux."""
    return _checked("prctl", option, value, 0, 0, 0)


def keep_capabilities(mask: int) -> None:
    """capset(2): keep only these capabilities, a bit each."""
    # struct __user_cap_header_struct (version 3, this process) and two __user_cap_data_struct of linux/capability.h
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    _checked("capset", header, data)


def can_become(users: range) -> bool:
    """Whether this process may change to any of these users: by its capabilities, and by its user namespace."""
    try:
        with open("/proc/self/status") as status, open("/proc/self/uid_map") as known:
            effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
            spans = [(int(first), int(count)) for first, _, count in map(str.split, known)]
    except (OSError, ValueError, StopIteration):
        return False
    needed = 1 << 0 | 1 << 6 | 1 << 7  # CAP_CHOWN, CAP_SETGID, CAP_SETUID
    return effective & needed == needed and any(
        first <= users.start and users.stop <= first + count for first, count in spans
    )


def widen(pipe: int) -> None:
    """Let a pipe hold more, which only saves time."""
    if LINUX:
        import fcntl

        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _checked(name: str, *arguments: object) -> int:
    if _libc is None:
        raise OSError(38, os.strerror(38))  # ENOSYS
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(getattr(_libc, name)(*passed))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
