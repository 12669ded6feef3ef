"""What it costs to watch a run of the embedded model: a call without progress beside ways to get its events, in pairs.

The seconds are of the CPU, of all threads of the process, since a busy machine changes those least. There are the
median of the ratios of pairs, and the ratio of the least seconds of each side; one of them should be below the target.
The first row is the plain call beside itself: the noise of the measurement. Previews are what a program asks for, so
they have no target.
"""

import asyncio
import io
import os
import statistics
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sfumato as sf

STEPS, PAIRS = 20, 9
TARGET = 1.02
CALL: dict[str, Any] = {"prompt": "a red apple", "seed": 1, "num_inference_steps": STEPS}


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the CPU and of the clock that one run takes."""
    began = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - began[0], time.perf_counter() - began[1]


def ways(pipe: sf.Graph) -> dict[str, Callable[[], object]]:
    """The ways to watch a run."""

    def plain() -> object:
        return pipe(**CALL, progress=False)

    def stream() -> object:
        return [event.path for event in pipe.stream(**CALL)]

    def function() -> object:
        return pipe(**CALL, progress=False, on_event=[].append)

    def bar() -> object:
        with redirect_stderr(Terminal()):
            return pipe(**CALL)

    async def consume() -> object:
        return [event.path async for event in pipe.stream(**CALL)]

    def previews() -> object:
        return [event.preview() for event in pipe.stream(**CALL) if isinstance(event, sf.events.StepFinished)]

    return {
        "nothing": plain,
        "stream": stream,
        "on_event=": function,
        "progress bar": bar,
        "async for": lambda: asyncio.run(consume()),
        "a preview of each step": previews,
    }


def main() -> None:
    """Print the ratios, and end with an error if one is above the target."""
    torch.set_num_threads(1)
    os.environ.pop("SFUMATO_PROGRESS", None)
    os.environ["TERM"] = "xterm"
    pipe = sf.load("emoji")
    every = ways(pipe)
    plain = every["nothing"]
    for run in every.values():
        run()
    heads = ("watched by", "plain, ms", "watched, ms", "ratio", "of the least", "of the clock")
    table = Table(*heads, title=f"a run of {STEPS} steps")
    slow: list[str] = []
    for name, run in every.items():
        pairs = [
            (seconds(plain), seconds(run)) if pair % 2 else (seconds(run), seconds(plain))[::-1]
            for pair in range(PAIRS)
        ]
        cpu, clock = (statistics.median(b[i] / a[i] for a, b in pairs) for i in (0, 1))
        mine, watched = (min(pair[i][0] for pair in pairs) for i in (0, 1))
        least = watched / mine
        table.add_row(name, f"{mine * 1e3:.0f}", f"{watched * 1e3:.0f}", f"{cpu:.3f}", f"{least:.3f}", f"{clock:.3f}")
        if name not in ("nothing", "a preview of each step") and min(cpu, least) > TARGET:
            slow.append(name)
    Console().print(table)
    if slow:
        raise SystemExit(f"Above {TARGET}: {', '.join(slow)}.")


if __name__ == "__main__":
    main()
