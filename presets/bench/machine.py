"""The machine of a measurement: its name, how fast it multiplies matrices, and how much memory a run takes."""

import platform
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_SIDES = {"cpu": 1024, "cuda": 8192}
_EVERY = 0.005  # seconds between two looks at the memory of this process


def device_label(device: str) -> str:
    """The name of a device, with the number of torch's threads for a CPU: baselines are kept by it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """The operations a second of one large product of matrices, the best of three: a multiplication with an addition is
    two."""
    kind = torch.device(device).type
    side = _SIDES.get(kind, 2048)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(4):  # the first one warms up
        synchronize(device)
        began = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def synchronize(device: str) -> None:
    """Wait until a device has done its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class PeakMemory:
    """The most memory since the last `take`: of the allocator on CUDA, of this process on a CPU, where it looks every
    5 ms."""

    def __init__(self, device: str) -> None:
        self._cuda = device if torch.device(device).type == "cuda" else None
        self._peak, self._stop = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._cuda is None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._cuda is None:
            self._thread.join()

    def take(self) -> int:
        """The peak in bytes; a new one begins."""
        if self._cuda is not None:
            peak = torch.cuda.max_memory_allocated(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
            return peak
        peak, self._peak = max(self._peak, _resident()), 0
        return peak

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self._peak = max(self._peak, _resident())


def _resident() -> int:
    """The bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * 4096
