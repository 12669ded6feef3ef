"""A process that has imported everything, and forks a child for each input: `python -m hostile.zygote ROOT`.

It reads the name of a kind from its standard input and writes a JSON line for each of its inputs, then an empty line.
"""

import gc
import json
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""The time that an input may take: of a processor, or of waiting."""
BYTES = 10**9
"""The memory that an input may take beside what its process has before."""
_MAKING = 60.0
_LONGEST = 60.0
"""No input takes longer than this even where other programs take the processors."""
_TOGETHER = int(os.environ.get("SFUMATO_HOSTILE_JOBS", "2"))


@dataclass
class _Child:
    name: str
    pid: int
    pipe: int
    folder: Path
    baseline: int
    began: float
    told: bytes = b""
    started: bool = False
    used: float = 0.0
    """Seconds of a processor when it was last seen at work, and when that was."""
    at_work: float = 0.0
    first: float = 0.0
    killed: str = ""


def main(root: Path) -> None:
    """Serve requests until the standard input ends."""
    from . import checkpoint

    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    checkpoint.prepare(root)
    gc.collect()
    gc.freeze()  # so that a child's collector writes to no page that it shares with this process
    print("ready", file=answers, flush=True)
    for line in requests:
        kind, _, pattern = line.strip().partition(" ")
        for answer in _all(kind, pattern, root):
            print(json.dumps(answer), file=answers, flush=True)
        print(file=answers, flush=True)


def _all(kind: str, pattern: str, root: Path) -> Iterator[dict[str, Any]]:
    """The verdicts of all inputs of a kind."""
    from .table import inputs

    table = inputs(kind)
    waiting, running = iter([name for name in table if pattern in name]), dict[int, _Child]()
    with selectors.DefaultSelector() as selector:
        while True:
            while len(running) < _TOGETHER and (name := next(waiting, None)) is not None:
                child = _fork(kind, table[name], root)
                running[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            if not running:
                return
            for key, _ in selector.select(0.05):
                child = running[key.fd]
                if data := os.read(key.fd, 1 << 16):
                    child.told += data
                    if not child.started:
                        child.started, child.began = True, time.monotonic()
                        child.first = child.used = _processor_seconds(child.pid)
                    continue
                selector.unregister(key.fd)
                os.close(key.fd)
                yield _verdict(kind, running.pop(key.fd))
            for child in running.values():
                _check(child)


def _fork(kind: str, one: Any, root: Path) -> _Child:
    folder = root / "work" / f"{kind}-{abs(hash(one.name))}-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        return _Child(one.name, pid, reading, folder, _resident(pid), time.monotonic())
    try:
        from .child import run_input

        os.close(reading)
        os.setsid()
        run_input(one, folder, writing)
    finally:
        os._exit(0)


def _check(child: _Child) -> None:
    """End a child that takes too long or too much."""
    if child.killed:
        return
    now, used = time.monotonic(), _processor_seconds(child.pid)
    if used > child.used or not child.at_work:
        child.used, child.at_work = used, now
    if not child.started:
        child.killed = "slow" if now - child.began > _MAKING else ""
    elif used - child.first > SECONDS:
        child.killed = f"takes more than {SECONDS:g} s of a processor"
    elif now - child.began > SECONDS < now - child.at_work + 1 or now - child.began > _LONGEST:
        child.killed = f"hangs: {now - child.began:.0f} s, and {used - child.first:.1f} s of a processor"
    elif _resident(child.pid) - child.baseline > 1.5 * BYTES:
        child.killed = f"takes more than {1.5 * BYTES / 1e9:g} GB"
    if child.killed:
        if os.environ.get("SFUMATO_HOSTILE_TRACE"):
            os.kill(child.pid, signal.SIGABRT)
            time.sleep(0.3)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _processor_seconds(pid: int) -> float:
    """The time that all threads of a process have run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


def _verdict(kind: str, child: _Child) -> dict[str, Any]:
    _, status = os.waitpid(child.pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # its descendants
    printed = child.folder / ".printed"
    text = printed.read_bytes()[-1500:].decode(errors="replace") if printed.is_file() else ""
    shutil.rmtree(child.folder, ignore_errors=True)
    lines = [json.loads(line) for line in child.told.splitlines() if line.strip()]
    told = lines[-1] if lines else {}
    answer: dict[str, Any] = {"kind": kind, "name": child.name, "verdict": "", "faults": [], "seconds": 0.0, "peak": 0}
    if "made" in told:
        return {**answer, "faults": [f"the input cannot be made: {told['made']}"]}
    if child.killed:
        return {**answer, "faults": [f"{child.killed} {text}".rstrip()]}
    if "verdict" not in told:
        return {**answer, "faults": [f"the process ended by itself: status {status}, {text}"]}
    answer |= told
    if answer["seconds"] > SECONDS:
        answer["faults"].append(f"takes {answer['seconds']:.1f} s")
    if answer["peak"] > BYTES:
        answer["faults"].append(f"takes {answer['peak'] / 1e9:.1f} GB")
    return answer


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
