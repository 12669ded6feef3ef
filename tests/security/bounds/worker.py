"""A process that reads changed files, with 500 MB of memory more than it needs to import the library."""

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 500_000_000
SECONDS = 2
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from bounds.worker import serve; serve()"


class Outcome(NamedTuple):
    """What became of a changed file."""

    kind: str
    """"loaded", "refused", or what went wrong."""
    text: str
    seconds: float
    """Of the processor, so that a busy machine changes nothing."""


class Worker:
    """Starts the process, and asks it. After its end it is started anew."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, subject: str, content: Any) -> Outcome:
        """Let the process read this content as the file of a subject."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([subject, content]) + "\n")
        process.stdin.flush()
        if not (line := process.stdout.readline()):
            self.close()
            return Outcome("an ended process", f"exit code {process.returncode}", 0.0)
        return Outcome(*json.loads(line))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes its pipes
                pass
            self._process = None

    def _start(self) -> "subprocess.Popen[str]":
        folder = str(Path(__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        return self._process


def serve() -> None:
    """Answer the lines of the parent."""
    from .subjects import subjects

    known = subjects()
    for name in known:  # imports what each needs before the memory is limited
        _outcome(known[name].read, known[name].content)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        subject, content = json.loads(line)
        del line
        sys.stdout.write(json.dumps(_outcome(known[subject].read, content)) + "\n")
        sys.stdout.flush()


def _outcome(read: Any, content: Any) -> Outcome:
    from sfumato.graph.errors import SfumatoError
    from sfumato.graph.json_text import JsonTextError
    from sfumato.registry import UnknownName

    start = time.process_time()
    kind, text = "loaded", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(content)
    except (SfumatoError, UnknownName, JsonTextError) as error:
        kind, text = "refused", str(error)
    except BaseException as error:  # the subject of the law
        kind, text = "another error", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if kind == "refused" and len(text) > 20_000:
        kind = "a long text"
    return Outcome(kind, text[:600], seconds)
