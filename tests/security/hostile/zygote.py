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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""The time that an input may take."""
BYTES = 10**9
"""The memory that an input may take beside what its process has before."""
_MAKING = 30.0
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
    limit: float = _MAKING
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
    """The verdicts of all inputs of a kind. An input that was too slow gets a second try by itself."""
    from .table import inputs

    table = inputs(kind)
    names = [name for name in table if pattern in name]
    slow: list[str] = []
    for answer in _run(kind, names, table, root, _TOGETHER):
        if answer.get("slow"):
            slow.append(answer["name"])
        else:
            yield answer
    yield from _run(kind, slow, table, root, 1)


def _run(kind: str, names: list[str], table: Any, root: Path, together: int) -> Iterator[dict[str, Any]]:
    waiting, running = iter(names), dict[int, _Child]()
    with selectors.DefaultSelector() as selector:
        while True:
            while len(running) < together and (name := next(waiting, None)) is not None:
                child = _fork(kind, table[name], root)
                running[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            if not running:
                return
            for key, _ in selector.select(0.05):
                child = running[key.fd]
                if data := os.read(key.fd, 1 << 16):
                    child.told += data
                    if child.limit == _MAKING and b"\n" in child.told:
                        child.began, child.limit = time.monotonic(), SECONDS
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
    if time.monotonic() - child.began > child.limit:
        child.killed = "slow"
    elif _resident(child.pid) - child.baseline > 1.5 * BYTES:
        child.killed = "large"
    if child.killed:
        if child.killed == "slow" and os.environ.get("SFUMATO_HOSTILE_TRACE"):
            os.kill(child.pid, signal.SIGABRT)
            time.sleep(0.2)
        os.killpg(child.pid, signal.SIGKILL)


def _verdict(kind: str, child: _Child) -> dict[str, Any]:
    _, status = os.waitpid(child.pid, 0)
    try:
        os.killpg(child.pid, signal.SIGKILL)  # its descendants
    except ProcessLookupError:
        pass
    printed = child.folder / ".printed"
    text = printed.read_bytes()[-1500:].decode(errors="replace") if printed.is_file() else ""
    shutil.rmtree(child.folder, ignore_errors=True)
    lines = [json.loads(line) for line in child.told.splitlines() if line.strip()]
    told = lines[-1] if lines else {}
    answer: dict[str, Any] = {"kind": kind, "name": child.name, "verdict": "", "faults": [], "seconds": 0.0, "peak": 0}
    if "made" in told:
        return {**answer, "faults": [f"the input cannot be made: {told['made']}"]}
    if child.killed == "slow":
        return {**answer, "slow": True, "faults": [f"takes more than {child.limit:g} s {text}"]}
    if child.killed == "large":
        return {**answer, "faults": [f"takes more than {1.5 * BYTES / 1e9:g} GB"]}
    if "verdict" not in told:
        return {**answer, "faults": [f"the process ended by itself: status {status}, {text}"]}
    answer |= told
    if answer["seconds"] > SECONDS:
        return {**answer, "slow": True, "faults": [*answer["faults"], f"takes {answer['seconds']:.1f} s"]}
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
