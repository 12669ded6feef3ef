"""The protections of an isolated process on this machine, and whether each is in force."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass

from . import kernel, landlock, seccomp


@dataclass(frozen=True)
class Protection:
    """One protection of an isolated process on this machine."""

    what: str
    """The protected part: "files", "network", "programs", "this process", "other processes", "descendants", "user"."""
    text: str
    """The rights that the process has to it, for people."""
    in_force: bool


def protections() -> tuple[Protection, ...]:
    """The protections of isolated processes on this machine, by its kernel and by the user. Empty on Windows."""
    if os.name != "posix":
        return ()
    files, calls = landlock.version() >= 1, seccomp.available()
    apart = kernel.LINUX and kernel.can_become(kernel.USERS)

    def one(what: str, in_force: bool, held: str, missing: str) -> Protection:
        return Protection(what, held if in_force else missing, in_force)

    return (
        one("files", files, "reads Python, its packages and the listed code, writes only into a folder of its own",
            "may read and write what its user may; needs Landlock"),
        one("network", calls, "has none", "may use it; needs seccomp"),
        one("programs", calls, "starts none", "may start them, and they end with it; needs seccomp"),
        one("this process", kernel.LINUX, "its memory, environment and open files are closed to it",
            "may be read and changed, since both have one user; needs Linux"),
        one("other processes", (files or apart) and (calls or apart or landlock.version() >= 6),
            "are closed to it", "may be read or ended, if they have its user; needs Landlock and seccomp"),
        one("descendants", kernel.LINUX, "end with it, in every case",
            "end with it, if they stay in its group of processes; needs Linux"),
        one("user", apart, "one without an account", "yours; another one needs the rights of root"),
    )  # fmt: skip


def system() -> str:
    """The kernel, and its means for this."""
    known = landlock.version()
    parts = [f"Landlock {known}" if known else "no Landlock", "seccomp" if seccomp.available() else "no seccomp"]
    name = f"{platform.system()} {platform.release().partition('-')[0]}"
    return ", ".join([name, *(parts if kernel.LINUX else [])])


def protection_table(found: Iterable[Protection]) -> str:
    """The protections as lines for people."""
    return "\n".join(f"{made.what:<15}  {made.text}" for made in found)
