"""The rights that an isolated process gives up, as far as this machine can take them away.

The order matters. `enter` runs while the process has one thread and has imported only Python's library: Landlock holds
for threads that are started afterwards. `close` runs when torch and this library are imported, and before any code of
the repo: it sets the limit of memory above what they take, and the filter of system calls holds for all threads.
"""

import contextlib
import os
import random
import resource
import signal
import sys
import sysconfig
from collections.abc import Iterable

from . import kernel, landlock, seccomp

_OPEN_FILES = 256
_FILE_BYTES = 2**28
"""The largest single file. The supervisor limits all of them together."""
_THREADS = 1024
_PER_CORE = 2**25  # bytes of address space for the stacks of torch's threads

_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store", "/etc/ld.so.cache",
    "/usr/share/fonts", "/usr/share/zoneinfo", "/etc/localtime", "/dev/random", "/dev/urandom", "/dev/zero",
    # What torch and the C library read about processors and their own memory.
    "/proc/cpuinfo", "/proc/meminfo", "/proc/self/maps", "/proc/self/stat", "/proc/self/statm", "/proc/self/status",
    "/proc/sys/vm/overcommit_memory", "/sys/devices/system/cpu", "/sys/devices/system/node",
)  # fmt: skip


def enter(work_folder: str, paths: Iterable[str]) -> None:
    """Limits, another user where that is allowed, and only these files. Called in a process with one thread.

    Args:
        work_folder: the folder of the process, where it may read and write.
        paths: other files and folders that it may read.
    """
    supervisor = os.getppid()
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, _OPEN_FILES),
                         (resource.RLIMIT_FSIZE, _FILE_BYTES)):  # fmt: skip
        resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory runs out, this process ends first
    folders = _existing([*paths, *_python_folders()])
    if not kernel.LINUX:
        return
    if kernel.can_become(kernel.USERS):
        _become_another_user(work_folder)
    # Where this user could not read Python itself, as below /root, the right to read stays. `access` ignores it.
    reads = all(os.access(path, os.R_OK) for path in folders)
    try:
        kernel.keep_capabilities(0 if reads else 1 << kernel.CAN_READ_ALL)
    except OSError:  # it never had that right
        kernel.keep_capabilities(0)
    kernel.prctl(kernel.PARENT_DEATH_SIGNAL, signal.SIGKILL)  # a change of the user would unset it
    if os.getppid() != supervisor:
        os._exit(1)
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    if landlock.version():
        landlock.restrict([*folders, *_system_files()], [work_folder, os.devnull])


def close(memory: int) -> None:
    """Limit the memory to so many bytes beyond those in use, and give up the system calls of `seccomp`."""
    with contextlib.suppress(OSError, ValueError):  # there is no such file outside Linux, and macOS has no such limit
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        whole = pages * resource.getpagesize() + memory + (os.cpu_count() or 1) * _PER_CORE
        resource.setrlimit(resource.RLIMIT_AS, (whole, whole))
    if seccomp.available():
        seccomp.restrict()


def default_memory() -> int:
    """Bytes that an isolated process may take: 8 GiB, or half of the machine's memory."""
    try:
        return min(2**33, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    except (OSError, ValueError):
        return 2**33


def _existing(paths: Iterable[str]) -> list[str]:
    return [path for path in dict.fromkeys(map(os.path.realpath, paths)) if path != "/" and os.path.exists(path)]


def _python_folders() -> list[str]:
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
    return [*prefixes, *sysconfig.get_paths().values(), *sys.path]


def _system_files() -> list[str]:
    # The names of /proc/self stay as they are: they are resolved when they are opened.
    return [*_SYSTEM, *filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))]


def _become_another_user(work_folder: str) -> None:
    """Change to a user without an account, with the capabilities of this one."""
    user = random.SystemRandom().choice(kernel.USERS)
    for folder, _, files in os.walk(work_folder):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chown(path, user, user)
    resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))  # no other process has this user
    os.setgroups([])
    kernel.prctl(kernel.KEEP_CAPABILITIES, 1)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
