"""Measure a pipeline: rounds in which each engine runs once, so that a busy machine slows all of them."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from ...components.engines import report
from ...graph import ConfigError, Graph, events
from .machine import PeakMemory, device_label, matmul_rate, synchronize
from .peer import compare_with
from .result import Bench, BlockRow, Side, Timed

_MOST_ROUNDS = 1000


@dataclass
class _Rounds:
    """What was seen of one engine, by block."""

    graph: Graph
    seconds: list[float] = field(default_factory=list[float])
    peak: int = 0
    blocks: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    peaks: dict[str, int] = field(default_factory=dict[str, int])


def measure(
    pipe: Graph,
    values: Mapping[str, Any],
    *,
    model: str,
    engines: Mapping[str, Graph] | None = None,
    rounds: int = 5,
    against: str | None = None,
) -> Bench:
    """Run a pipeline and time its blocks.

    Args:
        pipe: a graph with all components.
        values: of the call.
        model: its name, for the table and for baselines.
        engines: graphs of `pipe.optimize`, by the name of the side.
        rounds: so many runs of each side; one more before, which is not counted.
        against: "diffusers" to run the denoiser and the decoder of that library beside ours.

    Raises:
        ConfigError: no rounds; a library that is not installed or not known.
    """
    if not 1 <= rounds <= _MOST_ROUNDS:
        raise ConfigError(f"bench: rounds needs 1 to {_MOST_ROUNDS}, got {rounds}.")
    device, dtype = _place(pipe)
    plan = pipe.plan(**values)
    sides = {name: _Rounds(graph) for name, graph in {"torch": pipe, **(engines or {})}.items()}
    for side in sides.values():
        side.graph(**values, progress=False)  # loads, converts, compiles
    rates: list[float] = []
    with PeakMemory(device) as memory:
        for _ in range(rounds):
            rates.append(matmul_rate(device, dtype))
            for side in sides.values():
                _run(side, values, device, memory)
    flops = _by_top({node.path: node.flops for node in plan.nodes})
    base = next(iter(sides.values()))
    made = [_side(name, side, base, flops) for name, side in sides.items()]
    compared = compare_with(against, pipe, values, rounds, device) if against else ()
    return Bench(
        model, device_label(device), str(dtype).removeprefix("torch."),
        {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)},
        plan.flops, statistics.median(rates), tuple(made), tuple(compared), _versions(against),
    )  # fmt: skip


def _place(pipe: Graph) -> tuple[str, torch.dtype]:
    """The device and dtype of the denoiser, or of the first model."""
    models = [value for value in pipe.bindings.values() if hasattr(value, "dtype") and hasattr(value, "device")]
    chosen = next((pipe.bindings[name] for name in ("unet", "transformer") if name in pipe.bindings), models[0])
    dtype = chosen.dtype
    return str(chosen.device), dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


def _run(side: _Rounds, values: Mapping[str, Any], device: str, memory: PeakMemory) -> None:
    run = side.graph.stream(**values)
    found: dict[str, float] = {}
    memory.take()
    synchronize(device)
    began = time.perf_counter()
    for event in run:
        if isinstance(event, events.BlockFinished):
            top = event.path.partition(".")[0]
            found[top] = found.get(top, 0.0) + event.seconds
            side.peaks[top] = max(side.peaks.get(top, 0), memory.take())
    synchronize(device)
    side.seconds.append(time.perf_counter() - began)
    side.peak = max(side.peaks.values(), default=0)
    for path, seconds in found.items():
        side.blocks.setdefault(path, []).append(seconds)


def _by_top(flops: Mapping[str, int | None]) -> Mapping[str, int | None]:
    """The operations of nodes, and of loops with their nodes."""
    found: dict[str, int | None] = {}
    for path, count in flops.items():
        top = path.partition(".")[0]
        before = found.get(top, 0)
        found[top] = None if count is None or before is None else before + count
    return found


def _side(name: str, side: _Rounds, base: _Rounds, flops: Mapping[str, int | None]) -> Side:
    blocks = [
        BlockRow(path, Timed.of(seconds), flops.get(path), side.peaks[path]) for path, seconds in side.blocks.items()
    ]
    ratio = statistics.median(a / b for a, b in zip(side.seconds, base.seconds, strict=True))
    note = ", ".join(f"{component} {used.report}" for component, used in report(side.graph).items())
    return Side(name, tuple(blocks), Timed.of(side.seconds), ratio, side.peak, note)


def _versions(against: str | None) -> Mapping[str, str]:
    names: Sequence[str] = ("sfumato", "torch", *([against] if against else []))
    return {name: version(name) for name in names}
