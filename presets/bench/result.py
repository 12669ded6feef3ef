"""What a measurement gives: numbers of each block for each engine, as a table and as JSON."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...components.memory.sizes import show_size


@dataclass(frozen=True)
class Timed:
    """Seconds of several rounds. noise: the spread, 1.48 times the median deviation, as a fraction of the median."""

    median: float
    noise: float
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Timed":
        """These rounds."""
        median = statistics.median(seconds)
        deviation = statistics.median(abs(one - median) for one in seconds)
        return cls(median, 1.4826 * deviation / median if median else 0.0, tuple(seconds))


@dataclass(frozen=True)
class BlockRow:
    """A block, or a loop with its blocks. flops: of one run; None where they are not known. peak: bytes of memory."""

    path: str
    seconds: Timed
    flops: int | None
    peak: int


@dataclass(frozen=True)
class Side:
    """The runs of one engine. ratio: its seconds by those of the first side, the median of the rounds."""

    name: str
    blocks: tuple[BlockRow, ...]
    seconds: Timed
    ratio: float
    peak: int
    note: str = ""


@dataclass(frozen=True)
class Compared:
    """A component beside that of another library, on the same inputs and weights. error: the largest difference, as a
    fraction of the largest number."""

    component: str
    library: str
    ours: Timed
    theirs: Timed
    ratio: float
    error: float


@dataclass(frozen=True)
class Bench:
    """A measurement. rate: operations a second of a large product of matrices on this machine, in the same dtype."""

    model: str
    device: str
    dtype: str
    inputs: Mapping[str, Any]
    flops: int
    rate: float
    sides: tuple[Side, ...]
    compared: tuple[Compared, ...]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


_SHOWN = 0.005  # blocks with a smaller share of the seconds are summed


def _lines(bench: Bench) -> Iterator[str]:
    yield f"{bench.model} on {bench.device}, {bench.dtype}: {bench.flops / 1e9:.3g} GFLOP a run"
    yield f"a large product of matrices: {bench.rate / 1e9:.3g} GFLOP/s"
    for side in bench.sides:
        yield ""
        yield f"{side.name}{f' ({side.note})' if side.note else ''}"
        shown = [row for row in side.blocks if row.seconds.median >= _SHOWN * side.seconds.median]
        rows = [("block", "seconds", "spread", "GFLOP", "of the rate", "memory")]
        rows += [_row(row.path, row.seconds, row.flops, row.peak, bench.rate) for row in shown]
        rows.append(_row("in all", side.seconds, bench.flops, side.peak, bench.rate))
        yield from _columns(rows)
        if side is not bench.sides[0]:
            yield f"{side.ratio:.3f} x the seconds of {bench.sides[0].name}"
    if bench.compared:
        yield ""
        rows = [("component", "ours", "theirs", "ratio", "difference")]
        rows += [
            (f"{one.component}, {one.library}", f"{one.ours.median:.4g} s", f"{one.theirs.median:.4g} s",
             f"{one.ratio:.3f}", f"{one.error:.1e}")
            for one in bench.compared
        ]  # fmt: skip
        yield from _columns(rows)


def _row(name: str, seconds: Timed, flops: int | None, peak: int, rate: float) -> tuple[str, ...]:
    known = bool(flops) and seconds.median > 0
    share = f"{100 * (flops or 0) / seconds.median / rate:.0f}%" if known else "-"
    gflop = f"{(flops or 0) / 1e9:.3g}" if known else "-"
    return name, f"{seconds.median:.4g}", f"{100 * seconds.noise:.1f}%", gflop, share, show_size(peak)


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
