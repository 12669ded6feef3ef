"""Recording a forward as a graph of kernels that is launched at once: on CUDA, or by a fake in tests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

_WARM_UP = 3
"""Runs before a capture, in which kernels are chosen and workspaces made, as torch's documentation advises."""


@dataclass(frozen=True)
class Recorded:
    """A recorded forward. replay: runs it again, over the same memory. output: what it writes."""

    replay: Callable[[], None]
    output: Any  # the output of any forward


class Recorder(Protocol):
    """Something that records forwards."""

    def missing(self, device: str) -> str:
        """Why it cannot record on a device, as a sentence that begins with a verb; "" if it can."""
        ...

    def record(self, forward: Callable[[], Any]) -> Recorded:
        """Record a forward, which reads and writes the same memory each time. RuntimeError if it cannot be."""
        ...


@dataclass(frozen=True)
class CudaGraphs:
    """Records CUDA graphs. Each has a pool of memory of its own, so that two threads may launch two of them at once."""

    def missing(self, device: str) -> str:
        """Why it cannot record on a device; "" if it can."""
        return "" if torch.device(device).type == "cuda" else f"is on {device}, and CUDA graphs need a CUDA device"

    def record(self, forward: Callable[[], Any]) -> Recorded:
        """Record a forward on the current device."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = forward()
        return Recorded(graph.replay, output)
