"""One measure of two checkouts of this repository, in turn, in seconds of the CPU, which other programs do not use up.

`python tests/benchmarks/bench_overhead.py --against ../base` compares the checkout of the file that runs with the one
in `../base`. Both need the same dependencies: those of the interpreter that runs.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parents[2]
Measure = Callable[[str, Path], float]
"""Takes the name of a measure and a checkout; returns a time of the CPU."""


def other_checkout(arguments: Sequence[str]) -> Path | None:
    """The folder behind `--against`; None without it."""
    match arguments:
        case ["--against", folder]:
            found = Path(folder).resolve()
            if not (found / "src" / "sfumato").is_dir():
                sys.exit(f"{found} has no src/sfumato. Pass the root of a checkout.")
            return found
        case []:
            return None
        case _:
            sys.exit(f"Got {' '.join(arguments)!r}. Pass nothing, or --against FOLDER.")


def environment(checkout: Path) -> dict[str, str]:
    """The environment of a process whose `import sfumato` finds that checkout."""
    return {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}


class Worker:
    """A process in which sfumato is that of one checkout. It runs measures by their names."""

    def __init__(self, script: str, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, "--serve"],
            env=environment(checkout),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        used = Path(self._line()).resolve()
        assert used.is_relative_to(checkout), f"The process imports {used}, which is not in {checkout}."

    def __call__(self, name: str) -> float:
        """Measure once."""
        assert self.process.stdin is not None
        print(name, file=self.process.stdin, flush=True)
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"The process ended with {self.process.wait()}."
        return line.strip()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(measures: Mapping[str, Callable[[], float]]) -> None:
    """Be a worker: answer each name on the input with a time on the output."""
    import sfumato

    print(sfumato.__file__, flush=True)
    for line in sys.stdin:
        print(measures[line.strip()](), flush=True)


def compare(title: str, unit: str, names: Sequence[str], measure: Measure, other: Path, count: int) -> None:
    """Print the medians of both checkouts, and the median and the quartiles of the ratios of `count` pairs."""
    table = Table("what", f"this, {unit}", f"other, {unit}", "this / other", "half of the pairs", title=title)
    for name in names:
        for checkout in (HERE, other):
            measure(name, checkout)  # warm
        pairs: list[tuple[float, float]] = []
        for i in range(count):
            order = (HERE, other) if i % 2 else (other, HERE)  # who goes first changes from pair to pair
            times = {checkout: measure(name, checkout) for checkout in order}
            pairs.append((times[HERE], times[other]))
        low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
        this, that = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        table.add_row(name, f"{this:.4g}", f"{that:.4g}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}")
    Console().print(table)
    Console().print(f"this: {HERE}\nother: {other}", soft_wrap=True)
