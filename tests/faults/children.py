"""Children of the test's process: ended at a chosen operation on files, or limited, with what they leave compared."""

import gc
import json
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import sfumato as sf
from sfumato.graph.saving.work import SUFFIX

_EVENTS = {
    "open", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir",
    "os.utime", "fcntl.flock", "shutil.copyfile", "shutil.rmtree",
}  # fmt: skip
"""What Python's audit hooks see of files. Each of them is a moment where a child can be ended."""
_SECONDS = 30  # after which a child that hangs ends itself


def state(folder: Path) -> dict[str, bytes | None] | None:
    """All that is in a folder, by path: the bytes of files, None for folders. None if there is no such folder."""
    if not os.path.lexists(folder):
        return None
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


def left_overs(folder: Path) -> list[Path]:
    """The work folders of saves in a folder and beside it."""
    return list(folder.parent.rglob(f"*{SUFFIX}*"))


def refused(do: Callable[[], object]) -> str:
    with pytest.raises(sf.SaveError) as caught:
        do()
    return str(caught.value)


class Child:
    """A fork of this process that runs a function. A fork is ready in milliseconds; a new process imports torch first.

    An error of the function is printed, and the child exits with 1.
    """

    def __init__(self, do: Callable[[], Any]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that other threads exist: no child needs them
            self.number = os.fork()
        if self.number == 0:
            os.close(reading)
            self._run(do, writing)
        os.close(writing)
        self._reading = reading

    def _run(self, do: Callable[[], Any], writing: int) -> NoReturn:
        status = 1
        try:
            gc.disable()  # else it writes to, and so copies, all pages that it shares with a worker of gigabytes
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_DFL)
            signal.alarm(_SECONDS)
            result = do()
            with os.fdopen(writing, "w") as file:
                file.write(json.dumps(result))
            status = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def end(self) -> tuple[int, Any]:
        """Wait for the end: the exit status, negative for a signal, and the result as JSON."""
        with os.fdopen(self._reading) as file:
            text = file.read()
        status = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
        return status, json.loads(text) if text else None


def _watch(root: Path, see: Callable[[int], None]) -> None:
    """Call `see` with a running number before each operation on files below a folder."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _EVENTS and (event == "fcntl.flock" or any(str(root) in str(arg) for arg in args[:2])):
            count += 1
            see(count)

    sys.addaudithook(hook)


def operations(do: Callable[[], object], root: Path) -> int:
    """How many operations on files below a folder a function does. It runs in a child."""

    def run() -> int:
        seen = 0

        def see(number: int) -> None:
            nonlocal seen
            seen = number

        _watch(root, see)
        do()
        return seen

    status, count = Child(run).end()
    assert status == 0 and isinstance(count, int)
    return count


def ended_at(do: Callable[[], object], moment: int, root: Path, how: signal.Signals = signal.SIGKILL) -> None:
    """Run a function in a child that ends by a signal before its operation number `moment`."""

    def run() -> None:
        _watch(root, lambda number: os.kill(os.getpid(), how) if number == moment else None)
        do()

    status, _ = Child(run).end()
    assert status in (0, -how), f"the child ended with {status}"


def moments(count: int, number: int = 30, seed: int = 0) -> list[int]:
    """Some of the numbers 1 … count, with the first and the last."""
    if count <= number:
        return list(range(1, count + 1))
    return sorted({1, count, *random.Random(seed).sample(range(1, count + 1), number - 2)})
