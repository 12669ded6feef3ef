"""The supervising process: it starts an isolated process, and ends it with all its descendants.

It is a process of its own so that it outlives the user's program, in whatever way that ends. It holds the reading end
of a pipe whose writing end only that program has: the end of the pipe is the end of the program. On Linux it is also
the parent of every descendant whose own parent has ended, so that none gets out of its sight.

It imports nothing but Python's library. On the pipe it is told to let the isolated process run or to stop it, so that
the code runs during calls only.
"""

import contextlib
import json
import os
import selectors
import signal
import stat
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import kernel
from .confine import enter

RUN, STOP = b"r", b"s"
"""The two bytes that the program writes on the pipe."""
_TAIL = 4000  # bytes of output that are kept
_FOLDER_BYTES = 2**30
_FOLDER_ENTRIES = 10_000
_FOLDER_DEPTH = 16
_INTERVAL = 0.25  # seconds between two looks at the folder


def main() -> None:
    """Supervise one process. The standard input has its description, the standard output gets the report."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the end of the pipe ends it
    start = json.loads(sys.stdin.buffer.read())
    if kernel.LINUX:
        kernel.prctl(kernel.SUBREAPER, 1)
        kernel.prctl(kernel.DUMPABLE, 0)
    work_folder = start["work_folder"]
    try:
        _write_code(Path(work_folder, "code"), start["code"]["files"])
        os.mkdir(f"{work_folder}/files", 0o700)
        report = Supervisor(start, work_folder).supervise()
    finally:
        remove(work_folder)
    sys.stdout.write(json.dumps(report))


def _write_code(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


class Supervisor:
    """One isolated process and its descendants."""

    def __init__(self, start: Mapping[str, Any], work_folder: str) -> None:
        self.work_folder = work_folder
        self.program = os.getppid()
        self.pipe: int = start["pipe"]
        self.tail = b""
        self.status: int | None = None
        self.why = ""
        self.running = True
        self.output, write = os.pipe()
        kernel.widen(write)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.output)
            os.close(self.pipe)
            _become_isolated(start, work_folder, write)
        for file in (write, start["requests"], start["answers"]):
            os.close(file)
        self.selector = selectors.DefaultSelector()
        for file in (self.pipe, self.output):
            self.selector.register(file, selectors.EVENT_READ)

    def supervise(self) -> dict[str, Any]:
        """Wait for the end of the isolated process, the program or a limit; end all processes. Return the report."""
        try:
            look = time.monotonic()
            while self.status is None and not self.why and self._listen():
                self._collect()
                if self.running and time.monotonic() >= look:
                    self._check_folder()
                    look = time.monotonic() + _INTERVAL
        finally:
            self._collect()
            status = self.status  # None: it is ended here
            self._end_all()
            self._drain()
        return {"status": status, "why": self.why, "output": self.tail.decode(errors="replace")}

    def _listen(self) -> bool:
        """Read the output and the commands; False at the end of the program."""
        ready = [key.fd for key, _ in self.selector.select(_INTERVAL)]
        if self.output in ready:
            self._keep()
        if self.pipe in ready:
            commands = os.read(self.pipe, 4096)
            if not commands:
                return False
            self.running = commands[-1:] == RUN
            for pid in [self.pid, *descendants(self.pid)]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGCONT if self.running else signal.SIGSTOP)
        return os.getppid() == self.program  # a fork of the program may hold the other end of the pipe too

    def _keep(self) -> None:
        if data := os.read(self.output, kernel.PIPE_BYTES):
            self.tail = (self.tail + data)[-_TAIL:]
        else:
            self.selector.unregister(self.output)

    def _drain(self) -> None:
        """Keep the rest of the output. Its writers have ended, so it has an end."""
        while self.output in self.selector.get_map():
            self._keep()

    def _collect(self) -> None:
        """Take the status of every process that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    self.status = os.waitstatus_to_exitcode(ended[1])

    def _check_folder(self) -> None:
        if over_limit(self.work_folder, self.pid):
            self.why = f"its files took more than {_FOLDER_BYTES >> 30} GB or {_FOLDER_ENTRIES} entries"

    def _end_all(self) -> None:
        """End the process and its descendants. A process whose parent has ended becomes a child of this one."""
        with contextlib.suppress(OSError):
            if self.status is None or not kernel.LINUX:
                os.killpg(self.pid, signal.SIGKILL)
        while left := [*([] if self.status is not None else [self.pid]), *descendants(os.getpid())]:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
            self._collect()


def _become_isolated(start: Mapping[str, Any], work_folder: str, output: int) -> NoReturn:
    """Be the isolated process from here on."""
    try:
        os.setsid()
        for file, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(file, target)
            if target != 1:
                os.close(file)
        os.chdir(f"{work_folder}/files")
        os.environ.update(HOME=f"{work_folder}/files", TMPDIR=f"{work_folder}/files", USER="isolated")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        enter(work_folder, start["readable"])
        from .worker import main as serve

        serve(start, work_folder)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


# ------------------------------------------------------------------------------------------------ processes
def descendants(pid: int) -> list[int]:
    """The processes below a process, where there is /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if kernel.LINUX else []:
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of a program, in parentheses, may have spaces and parentheses itself.
                children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found: list[int] = []
    left = [pid]
    while left:
        below = children.pop(left.pop(), [])
        found += below
        left += below
    return found


# ------------------------------------------------------------------------------------------------ the folder
def over_limit(folder: str, pid: int) -> bool:
    """Whether the folder, and files that are removed but still open, take more than they may."""
    size = entries = 0
    for each in (_files_in(folder), _removed_files(pid)):
        for used in each:
            size, entries = size + used, entries + 1
            if size > _FOLDER_BYTES or entries > _FOLDER_ENTRIES:
                return True
    return False


def _files_in(folder: str) -> Iterator[int]:
    """The bytes of each entry on the disk. A folder that is too deep counts as too large."""
    left = [(folder, 0)]
    while left:
        path, depth = left.pop()
        try:
            with os.scandir(path) as found:
                for entry in found:
                    yield entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        left.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue
        except OSError:
            yield _FOLDER_BYTES + 1  # it cannot be looked into
        if depth > _FOLDER_DEPTH:
            yield _FOLDER_BYTES + 1


def _removed_files(pid: int) -> Iterator[int]:
    """The bytes of each open file that has no name any more."""
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as found:
        for entry in found:
            with contextlib.suppress(OSError):
                about = entry.stat()
                if stat.S_ISREG(about.st_mode) and not about.st_nlink:
                    yield about.st_blocks * 512


def remove(folder: str) -> None:
    """Remove a folder of any depth: the content of inner folders is moved up first."""
    with contextlib.suppress(OSError):
        count = 0
        while below := [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]:
            for entry in below:
                os.chmod(entry.path, 0o700)
                for inner in os.scandir(entry.path):
                    if inner.is_dir(follow_symlinks=False):
                        count += 1
                        os.chmod(inner.path, 0o700)
                        os.rename(inner.path, f"{folder}/.{count}")
                    else:
                        os.unlink(inner.path)
                os.rmdir(entry.path)
        for entry in os.scandir(folder):
            os.unlink(entry.path)
        os.rmdir(folder)
