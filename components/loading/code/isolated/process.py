"""A separate process for code: started without this process's state, called with a time limit, ended after a fault."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .....graph.errors import BrokenBlock
from ..reading import Code
from .messages import CannotSend, layout, pack, raw, tensors_in, unpack

SECONDS = "SFUMATO_ISOLATED_SECONDS"
_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "TEMP",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
)
_MAX_LINE = 16 * 2**20  # bytes of the longest answer, tensors not counted
_MAX_BYTES = 64 * 2**30  # bytes of tensors in one answer
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)


class Child:
    """One process with the code of one source. It starts at the first request, and again after it ended."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.blocks: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._waiting = False  # a request was sent, and its answer is not complete
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._errors: IO[bytes] | None = None
        self._end: weakref.finalize[..., Any] | None = None

    # ------------------------------------------------------------------------------------------- asking
    def start(self) -> dict[str, Any]:
        """Import the code and return the descriptions of its blocks. BrokenBlock if that fails."""
        with self._lock:
            self._ready(time.monotonic() + _seconds())
            return self.blocks

    def call(self, block: str, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Call a block in the process. BrokenBlock if it raises, ends, sends an invalid answer or takes too long."""
        with self._lock:
            deadline = time.monotonic() + _seconds()
            self._ready(deadline)
            tensors: list[Tensor] = []
            values = {name: self._pack(block, name, value, tensors) for name, value in arguments.items()}
            plain_config = {name: self._pack(block, name, value, []) for name, value in config.items()}
            device = tensors[0].device if tensors else None
            try:
                made = layout(tensors)
            except CannotSend as error:
                raise BrokenBlock(f"{block}: an input {error}.") from None
            with _memory(made.size) as memory:
                if memory is not None:
                    for tensor, entry in zip(tensors, made.header, strict=True):
                        _write(memory, entry["offset"], raw(tensor))
                name = memory and memory.name
                request = {"do": "call", "block": block, "config": plain_config, "values": values}
                try:
                    answer = self._ask({**request, "tensors": made.header, "memory": name}, deadline, block)
                    return self._result(answer, block, deadline, device)
                finally:
                    if self._waiting:  # Ctrl-C, or no memory: the rest of this answer would be read as the next one
                        self.end()

    def _pack(self, block: str, name: str, value: Any, tensors: list[Tensor]) -> Any:
        try:
            return pack(value, tensors)
        except CannotSend as error:
            raise BrokenBlock(f"{block}: {name!r} {error}.") from None

    def _result(self, answer: dict[str, Any], block: str, deadline: float, device: Any) -> dict[str, Any]:
        size, values = answer.get("size"), answer.get("values")
        if not (type(size) is int and 0 <= size <= _MAX_BYTES and isinstance(values, dict)):
            raise self._wrong(block)
        with _memory(size) as memory:
            data = bytearray()
            if memory is not None:
                self._ask({"memory": memory.name}, deadline, block)
                data = _read(memory, size)
        self._waiting = False
        try:
            tensors = tensors_in(data, answer.get("tensors"))
            tensors = [tensor.to(device) for tensor in tensors] if device is not None else tensors
            return {str(name): unpack(value, tensors) for name, value in values.items()}
        except (CannotSend, RecursionError) as error:
            raise self._wrong(block, f": it {error}") from None

    # ------------------------------------------------------------------------------------------- the process
    def _ready(self, deadline: float) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        home = tempfile.mkdtemp(prefix="sfumato-")
        env = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        env |= {"HOME": home, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        errors = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the process
        paths = [os.path.abspath(path) for path in sys.path if path]
        module = f"{__package__}.child"
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, json.dumps(paths), module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=env, cwd=home, start_new_session=True,
        )  # fmt: skip
        self._process, self._errors, self._buffer = process, errors, b""
        self._end = weakref.finalize(self, _end, process, errors, home)
        code = self.code
        request = {"where": code.where, "place": str(code.place), "files": dict(code.source.files)}
        answer = self._ask({"do": "import", **request, "auto_map": dict(code.auto_map)}, deadline, "the import")
        if not isinstance(answer.get("blocks"), dict):
            raise self._wrong("the import")
        self.blocks = answer["blocks"]

    def end(self) -> None:
        """End the process. The next request starts another."""
        if self._end is not None:
            self._end()
        self._process = self._end = None
        self._waiting = False

    def _ask(self, request: dict[str, Any], deadline: float, what: str) -> dict[str, Any]:
        self._waiting = True
        self._write_all(json.dumps(request).encode() + b"\n", deadline, what)
        line = self._line(deadline, what)
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise self._wrong(what) from None
        if not isinstance(answer, dict):
            raise self._wrong(what)
        if "error" in answer:
            self._waiting = False
            trace = "\n  ".join(["", *str(answer.get("trace", "")).rstrip().splitlines()]).rstrip()
            raise BrokenBlock(f"{self.code.named}, in a separate process: {answer['error']}{trace}")
        return answer

    def _write_all(self, data: bytes, deadline: float, what: str) -> None:
        assert self._process is not None and self._process.stdin is not None
        file = self._process.stdin.fileno()
        os.set_blocking(file, False)
        with selectors.DefaultSelector() as ready:
            ready.register(file, selectors.EVENT_WRITE)
            left = memoryview(data)
            while left:
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise self._late(what)
                try:
                    left = left[os.write(file, left) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self._gone(what) from None

    def _line(self, deadline: float, what: str) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        file = self._process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(file, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if len(self._buffer) > _MAX_LINE:
                    raise self._wrong(what, f": more than {_MAX_LINE >> 20} MB")
                if not ready.select(max(0.0, deadline - time.monotonic())):
                    raise self._late(what)
                if not (data := os.read(file, 1 << 20)):
                    raise self._gone(what)
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    # ------------------------------------------------------------------------------------------- what goes wrong
    def _late(self, what: str) -> BrokenBlock:
        self.end()
        return BrokenBlock(
            f"{self.code.named}: {what} took more than {_seconds():g} s in its separate process, which was ended. The "
            f"next call starts another. Set {SECONDS} to wait longer."
        )

    def _gone(self, what: str) -> BrokenBlock:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        status = self._process.returncode
        how = f"with status {status}" if status is None or status >= 0 else f"by {signal.Signals(-status).name}"
        output = self._last_output()
        self.end()
        return BrokenBlock(
            f"{self.code.named}: its process ended {how} in {what}. The next call starts another.{output}"
        )

    def _wrong(self, what: str, why: str = "") -> BrokenBlock:
        self.end()
        return BrokenBlock(f"{self.code.named}: the answer of its process to {what} is invalid{why}. It was ended.")

    def _last_output(self) -> str:
        """The last lines of the process's standard error."""
        if self._errors is None:
            return ""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 800))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()[-8:]
        return "\n  ".join([" Its last output:", *lines]) if lines else ""


def _seconds() -> float:
    """How long a call may take: five minutes, or the value of the environment variable."""
    try:
        return float(os.environ.get(SECONDS) or 300)
    except ValueError:
        raise BrokenBlock(f"{SECONDS}={os.environ[SECONDS]!r}: needs a number of seconds.") from None


def _end(process: subprocess.Popen[bytes], errors: IO[bytes], home: str) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # with all processes that it started
        else:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    shutil.rmtree(home, ignore_errors=True)


# ------------------------------------------------------------------------------------------------ shared memory
@contextlib.contextmanager
def _memory(size: int) -> Any:  # a generator of SharedMemory | None
    """Shared memory of both processes, removed at the end; None for 0 bytes."""
    if not size:
        yield None
        return
    try:
        memory = SharedMemory(create=True, size=size)
    except OSError as error:
        why = error.strerror or error
        raise BrokenBlock(f"Cannot get {size / 1e6:.1f} MB of shared memory ({why}).") from None
    try:
        yield memory
    finally:
        memory.close()
        memory.unlink()


def _file_of(memory: SharedMemory) -> int | None:
    """The memory as a file. If the other process truncated it, or the machine has no memory left, reading the file
    raises an error, and reading the memory itself would end this process (SIGBUS)."""
    return getattr(memory, "_fd", None) if Path("/dev/shm").is_dir() else None


def _write(memory: SharedMemory, offset: int, data: Tensor) -> None:
    file = _file_of(memory)
    if file is None:
        if data.numel():
            torch.frombuffer(memory.buf, dtype=torch.uint8, count=data.numel(), offset=offset).copy_(data)
        return
    left = memoryview(data.numpy().data)
    try:
        while left:
            done = os.pwrite(file, left, offset)
            left, offset = left[done:], offset + done
    except OSError as error:
        raise BrokenBlock(f"The shared memory of this machine is full ({error.strerror}).") from None


def _read(memory: SharedMemory, size: int) -> bytearray:
    file = _file_of(memory)
    if file is None:
        assert memory.buf is not None  # it is closed at the end only
        return bytearray(memory.buf[:size])
    data = bytearray(size)
    view, offset = memoryview(data), 0
    while offset < size and (count := os.preadv(file, [view[offset:]], offset)):
        offset += count
    view.release()
    return data
