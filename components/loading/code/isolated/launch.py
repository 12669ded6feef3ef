"""The program's side of the supervisor: it is started, told when the code may run, and ended."""

import contextlib
import json
import os
import selectors
import site
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from . import kernel, landlock
from .supervisor import RUN, STOP, remove

_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH")
_THREADS = "OMP_NUM_THREADS"  # of torch; this process waits while a block runs, so the block gets as many
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "MALLOC_ARENA_MAX": "4"}
_START = (
    "import json, sys; sys.path[:] = dict.fromkeys([*json.loads(sys.argv[1]), *sys.path]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)
_MAX_REPORT = 2**20
_SECONDS_TO_END = 10


class _Unreadable:
    """Closes this process's memory, files and environment to others of its user, while isolated processes run.

    Only where nothing else does: Landlock closes them to the isolated process alone, and so does another user. This
    way, debuggers cannot attach either, and a crash writes no core file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._changed = False

    def add(self) -> None:
        """One more isolated process."""
        with self._lock:
            self._count += 1
            needed = kernel.LINUX and not landlock.version() and not kernel.can_become(kernel.USERS)
            if needed and not self._changed and kernel.prctl(kernel.GET_DUMPABLE) == 1:
                kernel.prctl(kernel.DUMPABLE, 0)
                self._changed = True

    def remove(self) -> None:
        """One less."""
        with self._lock:
            self._count -= 1
            if self._changed and not self._count:
                kernel.prctl(kernel.DUMPABLE, 1)
                self._changed = False


_UNREADABLE = _Unreadable()


class Report(NamedTuple):
    """The end of an isolated process: its status, the limit that it exceeded, and its output."""

    status: int | None
    """Its exit status, or less than zero: the signal that ended it. None if it was ended by the supervisor."""
    why: str
    """The limit that it exceeded, if that was so."""
    output: str
    """The end of its output."""


class Launched:
    """A running supervisor with its isolated process."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        work_folder = tempfile.mkdtemp(prefix="sfumato-isolated-")
        theirs_pipe, self._pipe = os.pipe()
        theirs_requests, self.requests = os.pipe()
        self.answers, theirs_answers = os.pipe()
        theirs = (theirs_pipe, theirs_requests, theirs_answers)
        mine = (self._pipe, self.requests, self.answers)
        for file in (self.requests, self.answers):
            kernel.widen(file)
        env = {name: os.environ[name] for name in _VARIABLES if name in os.environ} | _ENVIRONMENT
        env[_THREADS] = str(torch.get_num_threads())
        arguments = [sys.executable, "-I", "-B", "-c", _START, json.dumps(_paths()), f"{__package__}.supervisor"]
        try:
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env,
                pass_fds=theirs, start_new_session=True,
            )  # fmt: skip
        except OSError:
            for file in mine:
                os.close(file)
            remove(work_folder)
            raise
        finally:
            for file in theirs:
                os.close(file)
        _UNREADABLE.add()
        self._finalizer = weakref.finalize(self, _end, self._process, mine, work_folder)
        _RUNNING.add(self)
        sent = {
            **start, "pipe": theirs_pipe, "requests": theirs_requests, "answers": theirs_answers,
            "work_folder": work_folder, "readable": _own_folders(),
        }  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; its report says why
            self._process.stdin.write(json.dumps(sent).encode())
            self._process.stdin.close()

    @property
    def alive(self) -> bool:
        """Whether the supervisor runs."""
        return self._finalizer.alive and self._process.poll() is None

    def run(self) -> None:
        """Let the isolated process run."""
        self._command(RUN)

    def stop(self) -> None:
        """Stop the isolated process until `run`."""
        self._command(STOP)

    def _command(self, command: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, which the next read or write finds
            os.write(self._pipe, command)

    def end(self, wait: float = 0.0) -> Report:
        """End all processes; if they may be ending already, wait so many seconds for that first."""
        if not self._finalizer.alive:
            return Report(None, "", "")
        if wait:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(wait)
        text = self._finalizer() or ""
        try:
            made = json.loads(text)
            return Report(made["status"], str(made["why"]), str(made["output"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return Report(self._process.returncode, "", text)  # the supervisor itself failed

    def forget(self) -> None:
        """Leave the processes to the program that this one is a fork of."""
        if self._finalizer.detach() is not None:
            for file in (self._pipe, self.requests, self.answers):
                os.close(file)


_RUNNING: "weakref.WeakSet[Launched]" = weakref.WeakSet()


def _forget_all() -> None:
    for launched in list(_RUNNING):
        launched.forget()


os.register_at_fork(after_in_child=_forget_all)


def _end(process: "subprocess.Popen[bytes]", files: tuple[int, ...], work_folder: str) -> str:
    """Close the pipes, which ends the processes, and return the report."""
    for file in files:
        os.close(file)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    text = b""
    deadline = time.monotonic() + _SECONDS_TO_END
    with selectors.DefaultSelector() as ready, process.stdout as output:
        ready.register(output, selectors.EVENT_READ)
        while len(text) < _MAX_REPORT and ready.select(max(0.0, deadline - time.monotonic())):
            if not (data := os.read(output.fileno(), 2**16)):
                break
            text += data
        else:
            process.kill()  # the isolated process ends with the supervisor
    process.wait()
    remove(work_folder)  # if the supervisor was killed
    _UNREADABLE.remove()
    return text.decode(errors="replace")


def _package_folder() -> str:
    package = (__package__ or "").partition(".")[0]
    return os.path.dirname(os.path.abspath(sys.modules[package].__file__ or ""))


def _paths() -> list[str]:
    """Where the isolated process may import from: this library, Python, and folders of packages.

    The folder of a program, and others that PYTHONPATH names, are not among them.
    """
    known = (os.path.dirname(_package_folder()), *site.getsitepackages(), site.getusersitepackages())
    prefixes = tuple(f"{prefix}{os.sep}" for prefix in (sys.prefix, sys.base_prefix) if prefix != os.sep)
    return [
        path for path in map(os.path.abspath, filter(None, sys.path))
        if path in known or path.startswith(prefixes) or os.path.basename(path) in ("site-packages", "dist-packages")
    ]  # fmt: skip


def _own_folders() -> list[str]:
    """The folders of this library, which may be links."""
    package = _package_folder()
    return [*_paths(), *(entry.path for entry in os.scandir(package) if entry.is_dir())]
