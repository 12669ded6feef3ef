"""Time runs side by side beside the same runs one by one, in pairs, in one process."""

import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

import sfumato as sf

STEPS, PAIRS = 12, 5
SCHEDULERS = ("ddim", "euler", "euler_a", "dpmpp_2m_karras")
PROMPTS = ("a red apple", "a fox", "a rocket", "a cactus", "a crown", "a penguin")


def unlike(count: int) -> Sequence[dict[str, Any]]:
    """The inputs of runs with other prompts, seeds, schedulers, scales and numbers of steps."""
    return [
        {
            "prompt": PROMPTS[n % len(PROMPTS)],
            "seed": n,
            "scheduler": SCHEDULERS[n % len(SCHEDULERS)],
            "guidance_scale": 2.0 + n % 3,
            "num_inference_steps": STEPS + n % 3 - 1,
        }
        for n in range(count)
    ]


def main() -> None:
    """Print seconds for each number of runs, and how often as fast they are side by side."""
    warnings.filterwarnings("ignore")
    pipe = sf.load("emoji")

    def one_by_one(calls: Sequence[dict[str, Any]]) -> float:
        began = time.perf_counter()
        for call in calls:
            pipe(**call)
        return time.perf_counter() - began

    def side_by_side(calls: Sequence[dict[str, Any]]) -> float:
        began = time.perf_counter()
        sf.together([pipe.stream(**call) for call in calls])
        return time.perf_counter() - began

    table = Table("runs", "one by one, s", "side by side, s", "times as fast", title="unlike runs of the emoji model")
    for count in (1, 2, 6, 12):
        calls = unlike(count)
        side_by_side(calls)
        pairs = [(one_by_one(calls), side_by_side(calls)) for _ in range(PAIRS)]
        alone, together = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in pairs)
        table.add_row(str(count), f"{alone:.2f}", f"{together:.2f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
