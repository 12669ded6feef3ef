"""What a process does beside its work: programs, modules, files, connections. An audit hook records it."""

import os
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

PROCESSES = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
     "os.startfile", "webbrowser.open", "builtins.input", "pickle.find_class", "marshal.loads", "code.__new__"}
)  # fmt: skip
"""Events that no input may cause at all."""
_CHANGES = frozenset(
    {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
     "os.utime", "shutil.rmtree", "shutil.move"}
)  # fmt: skip
"""Events that change the file of their first argument."""
_LOOPBACK = ("127.", "::1", "localhost")
_SECRETS = ("/etc/passwd", "/etc/shadow", "/root/.ssh")


class Blocked(BaseException):
    """Stops what an input tried. No `except Exception` of the library catches it."""


class Watch:
    """Records what this process does outside `folder` from now on. A process has one, and it cannot be removed."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self._inside = tuple({str(folder), str(folder.resolve())})
        self._code = tuple(
            {str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())}
            | {str(Path(__file__).resolve().parents[3])}
        )
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:  # Any: each event has its own arguments
        if not self.on:
            return
        self.on = False  # what this hook itself does is no finding
        try:
            found = self._finding(event, args)
        finally:
            self.on = True
        if found:
            self.seen.append(found)
            raise Blocked(found)

    def _finding(self, event: str, args: tuple[Any, ...]) -> str:
        if event in PROCESSES:
            return f"{event}{_short(args)}" if not self._own_caller(event) else ""
        if event == "open":
            return self._opened(*args)
        if event in _CHANGES:
            return self._changed(event, args)
        if event == "exec" and not self._is_code(getattr(args[0], "co_filename", "")):
            return f"runs the code of {args[0].co_filename}"
        if event == "socket.connect" and not _is_near(args[1]):
            return f"connects to {_short(args[1])}"
        if event == "socket.getaddrinfo" and not str(args[0]).startswith(_LOOPBACK):
            return f"looks up {_short(args[0])}"
        return ""

    def _own_caller(self, event: str) -> bool:
        """Whether Python's own import system causes the event: it reads its compiled files by marshal."""
        if event not in ("marshal.loads", "code.__new__"):
            return False
        frame = sys._getframe(3)
        return "importlib" in frame.f_code.co_filename

    def _opened(self, path: Any, mode: Any, flags: int) -> str:
        if isinstance(path, int):
            return ""
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and not self._may_write(path):
            return f"opens {_short(path)} for writing"
        if os.fsdecode(path).startswith(_SECRETS):
            return f"reads {_short(path)}"
        return ""

    def _changed(self, event: str, args: tuple[Any, ...]) -> str:
        """The files that an event changes: links and new names are made at the second argument."""
        if event in ("os.symlink", "os.link"):
            paths = [(args[1], args[2] if len(args) > 2 else -1)]
        elif event == "os.rename":
            paths = [(args[0], args[2]), (args[1], args[3])]
        elif event in ("os.remove", "os.rmdir"):
            paths = [(args[0], args[1])]
        elif event in ("os.mkdir", "os.chmod"):
            paths = [(args[0], args[2])]
            if event == "os.mkdir" and os.path.exists(args[0]):
                return ""  # it fails, and changes nothing
        else:
            paths = [(args[0], -1)]
        for path, folder in paths:
            if not self._may_write(path, folder if isinstance(folder, int) else -1):
                return f"{event} of {_short(path)}"
        return ""

    def _may_write(self, path: Any, folder: int = -1) -> bool:
        if isinstance(path, int):
            return True
        base = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else ""
        text = os.path.realpath(os.path.join(base, os.fsdecode(path)))
        return text.startswith((*self._inside, "/proc/self")) or text in (os.devnull, "/dev/full", "/dev/shm")

    def _is_code(self, file: str) -> bool:
        if not file or file.startswith("<"):
            return True
        return os.path.realpath(file).startswith(self._code)


def _is_near(address: Any) -> bool:
    if not isinstance(address, tuple):
        return False  # a socket of this machine: no input needs one
    return str(address[0]).startswith(_LOOPBACK)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def own_temporary(folder: Path) -> None:
    """Put temporary files of this process in `folder`."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    socket.setdefaulttimeout(10)
