"""Run a Python text in a process of its own that is watched: what it imports, reads, asks, connects to and starts."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WATCH = """
import json, os, sys, sysconfig
_seen = {"imported": [], "opened": [], "started": [], "connected": []}
_inside = tuple(os.path.realpath(p) for p in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix, SOURCE})
def _watch(event, args):
    if event == "exec":
        file = getattr(args[0], "co_filename", "")
        if os.path.isabs(file) and not os.path.realpath(file).startswith(_inside):
            _seen["imported"].append(file)
    elif event == "open" and isinstance(args[0], str):
        _seen["opened"].append(args[0])
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork"):
        _seen["started"].append([event, str(args)[:200]])
    elif event in ("socket.connect", "socket.getaddrinfo"):
        _seen["connected"].append(str(args)[:200])
sys.addaudithook(_watch)
"""
_END = """
_seen["result"] = RESULT
print("\\n" + json.dumps(_seen))
"""
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seen:
    """What a watched process did."""

    result: Any  # JSON values
    imported: list[str]
    """Files outside the environment whose code ran."""
    opened: list[str]
    started: list[list[str]]
    connected: list[str]
    stdin_read: int
    """Bytes that were read from standard input."""


def run_watched(code: str, answers: Path, **values: object) -> Seen:
    """Run a text of Python. It sets RESULT, which is JSON.

    Args:
        code: the text.
        answers: a file to make; it is the standard input and has "y" on each line.
        values: JSON values that the text finds under these names.
    """
    answers.write_text("y\n" * 1000)
    names = "".join(f"{name} = json.loads({json.dumps(value)!r})\n" for name, value in values.items())
    text = f"SOURCE = {str(ROOT)!r}\n{_WATCH}\nRESULT = None\n{names}\n{code}\n{_END}"
    with answers.open() as stdin:
        done = subprocess.run(
            [sys.executable, "-c", text], stdin=stdin, capture_output=True, text=True, timeout=300,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "0"}, cwd=answers.parent,
        )  # fmt: skip
        read = os.lseek(stdin.fileno(), 0, os.SEEK_CUR)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return Seen(**found, stdin_read=read)
