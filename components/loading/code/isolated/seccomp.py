"""seccomp: a process gives up system calls (Linux 3.17 and later, x86-64 and arm64).

The filter is a program of classic BPF, as "Seccomp BPF" in the kernel's pages describes it. It refuses calls by number
with EPERM, as a kernel does that lacks the permission, so that libraries fall back or raise `PermissionError`.
"""

import ctypes
import errno
import os
import platform
import struct
from functools import cache

from .kernel import syscall

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""AUDIT_ARCH_* of linux/audit.h, and the column of the tables below."""

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Numbers on x86-64 (asm/unistd_64.h) and on arm64 (asm-generic/unistd.h); None where there is no such call.
    # Processes. A thread is made by `clone`, see below.
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281), "setsid": (112, 157),
    "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
    # Other processes: their memory, their files, signals to them, where and how fast they run.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "tkill": (200, 130), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "ioprio_set": (251, 30), "get_robust_list": (274, 100),
    # Sockets. `socketpair` is left: it connects a process with itself, which asyncio does.
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # Memory that other processes share, or that outlives this one and its limits.
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Owner, mode, times and attributes of files, which Landlock does not protect; watching files.
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # Users and limits.
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145), "setregid": (114, 143),
    "setresuid": (117, 147), "setresgid": (119, 149), "setfsuid": (122, 151), "setfsgid": (123, 152),
    "setgroups": (116, 159), "capset": (126, 91), "setrlimit": (160, 164), "personality": (135, 92),
    # The machine: mounts, modules, keys, clocks, and large parts of the kernel that blocks have no use for.
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "syslog": (103, 116), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "vhangup": (153, 58), "lookup_dcookie": (212, 18), "uselib": (134, None),
    "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None), "nfsservctl": (180, 42),
}  # fmt: skip

_ONLY: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    # Calls that are left for some values of one argument: numbers, which argument, the values. None is this process.
    "sched_setaffinity": ((203, 122), 0, (0,)), "sched_setparam": ((142, 118), 0, (0,)),
    "sched_setscheduler": ((144, 119), 0, (0,)), "sched_setattr": ((314, 274), 0, (0,)),
    "setpriority": ((141, 140), 1, (0,)), "socketpair": ((53, 199), 0, (1,)),  # AF_UNIX
}  # fmt: skip
_ONLY_ITSELF = {"kill": (62, 129), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240)}
"""Signals: the first argument needs to be this process."""
_NOT: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    # Calls that are refused for some values of one argument.
    # PR_SET_PDEATHSIG, _DUMPABLE, _MM, _CHILD_SUBREAPER, _PTRACER of linux/prctl.h: the process stays bound to end.
    "prctl": ((157, 167), 0, (1, 4, 35, 36, 0x59616D61)),
    # TIOCSCTTY, TIOCSPGRP, TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP of asm-generic/ioctls.h and sockios.h: terminals
    "ioctl": ((16, 29), 1, (0x540E, 0x5410, 0x5412, 0x541C, 0x8901, 0x8902)),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX of asm-generic/fcntl.h: signals to others by way of a file
    "fcntl": ((72, 25), 1, (8, 10, 15)),
}
_CLONE, _CLONE3, _PRLIMIT = (56, 220), (435, 435), (302, 261)
_CLONE_THREAD = 0x10000
_LAST = 450
"""Later calls (Linux 6.5 and later) answer as in an older kernel, since this filter does not know them."""

# struct seccomp_data: the number at 0, the architecture at 4, six arguments of 8 bytes at 16
_LOAD, _EQUAL, _GREATER, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|…|K, BPF_RET|K
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # SECCOMP_RET_*
_REFUSE, _UNKNOWN = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS


def _step(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    """One struct sock_filter."""
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _program(architecture: int, column: int, pid: int) -> bytes:
    """The filter for a process of this id."""
    number = _step(_LOAD, 0)
    steps = [_step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), number]
    steps += [_step(_GREATER, _LAST, 0, 1), _step(_RETURN, _UNKNOWN)]
    steps += [_step(_EQUAL, _CLONE3[column], 0, 1), _step(_RETURN, _UNKNOWN)]  # glibc then uses clone

    def argument(numbers: tuple[int, int], which: int, tests: list[bytes], otherwise: int) -> None:
        body = [_step(_LOAD, 16 + 8 * which), *tests, _step(_RETURN, otherwise)]
        steps.extend([_step(_EQUAL, numbers[column], 0, len(body)), *body])

    def values(those: tuple[int, ...], result: int) -> list[bytes]:
        return [step for value in those for step in (_step(_EQUAL, value, 0, 1), _step(_RETURN, result))]

    argument(_CLONE, 0, [_step(_ANY_BIT, _CLONE_THREAD, 0, 1), _step(_RETURN, _ALLOW)], _REFUSE)
    # No new limits: both words of this pointer need to be zero.
    argument(_PRLIMIT, 2, [_step(_EQUAL, 0, 1, 0), _step(_RETURN, _REFUSE), _step(_LOAD, 36),
                           *values((0,), _ALLOW)], _REFUSE)  # fmt: skip
    for numbers, which, those in _ONLY.values():
        argument(numbers, which, values(those, _ALLOW), _REFUSE)
    for numbers in _ONLY_ITSELF.values():
        argument(numbers, 0, values((pid,), _ALLOW), _REFUSE)
    for numbers, which, those in _NOT.values():
        argument(numbers, which, values(those, _REFUSE), _ALLOW)
    for numbers in _REFUSED.values():
        if (refused := numbers[column]) is not None:
            steps += [_step(_EQUAL, refused, 0, 1), _step(_RETURN, _REFUSE)]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


# seccomp(2): SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC, SECCOMP_GET_ACTION_AVAIL
_SECCOMP, _SET_FILTER, _ALL_THREADS, _IS_AVAILABLE = (317, 277), 1, 1, 2


@cache
def available() -> bool:
    """Whether this machine can filter system calls."""
    _, column = _ARCHITECTURES.get(platform.machine(), (0, None))
    if column is None or struct.calcsize("P") != 8:
        return False
    try:
        action = ctypes.create_string_buffer(struct.pack("=I", _ERRNO), 4)
        return syscall(_SECCOMP[column], _IS_AVAILABLE, 0, action) == 0
    except OSError:
        return False


def restrict() -> None:
    """Give up these calls in all threads of this process, until it ends. It needs `NO_NEW_PRIVS`."""
    architecture, column = _ARCHITECTURES[platform.machine()]
    program = _program(architecture, column, os.getpid())
    steps = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of steps, and a pointer to them
    whole = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(steps)))
    if syscall(_SECCOMP[column], _SET_FILTER, _ALL_THREADS, whole):
        raise OSError(errno.EAGAIN, "a thread has another filter of system calls")
