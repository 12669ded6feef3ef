"""Baselines: earlier measurements in a file, by device and model, and what has become slower since."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any, cast

from ...components.storage.files import read_json, write_json
from ...graph import LoadError
from .result import Bench, Side

_LEAST = 0.02
"""A smaller change is none, however quiet the machine is."""
_SHARE = 0.05
"""Blocks with a smaller share of the seconds are not compared."""
_SPREADS = 3.0
"""A change is real from so many spreads on: one in 370 by chance, if they are normal."""


@dataclass(frozen=True)
class Change:
    """The seconds of a part, now and in the baseline, as a ratio. limit: the largest ratio that noise explains."""

    part: str
    ratio: float
    limit: float

    @property
    def is_regression(self) -> bool:
        """Whether the part has become slower than noise explains."""
        return self.ratio > self.limit

    def __str__(self) -> str:
        word = "slower" if self.is_regression else "within noise" if self.ratio * self.limit > 1 else "faster"
        return f"{self.part}: {self.ratio:.3f} x the baseline ({word}; noise up to {self.limit:.3f})"


def save_baseline(bench: Bench, file: Path) -> None:
    """Write the seconds of a measurement into a file, beside those of other devices and models."""
    known = _read(file) if file.exists() else {}
    parts = {side.name: _parts(side) for side in bench.sides}
    write_json(file, {**known, _key(bench): {"parts": parts, "rate": bench.rate, "versions": dict(bench.versions)}})


def changes_since(bench: Bench, file: Path) -> list[Change]:
    """The changes against a baseline: of each engine and of each of its larger blocks.

    Raises:
        LoadError: no such file, or none of this device, model and call in it.
    """
    known = _read(file)
    if _key(bench) not in known:
        raise LoadError(
            f"{file}: has no baseline of {_key(bench)}. Write one: --save {file}. It has: {'; '.join(known)}."
        )
    before = cast("Mapping[str, Mapping[str, Any]]", known[_key(bench)]["parts"])
    found: list[Change] = []
    for side in bench.sides:
        old = before.get(side.name, {})
        for part, (seconds, noise) in _parts(side).items():
            if part in old:
                limit = 1 + max(_LEAST, _SPREADS * hypot(noise, float(old[part][1])))
                found.append(Change(f"{side.name} {part or 'in all'}", seconds / float(old[part][0]), limit))
    return found


def _parts(side: Side) -> dict[str, list[float]]:
    """The median seconds and the noise of the whole run, under "", and of each block."""
    least = _SHARE * side.seconds.median
    rows = {"": side.seconds, **{row.path: row.seconds for row in side.blocks if row.seconds.median >= least}}
    return {name: [timed.median, timed.noise] for name, timed in rows.items()}


def _key(bench: Bench) -> str:
    inputs = ", ".join(
        f"{name}={value}" for name, value in sorted(bench.inputs.items()) if name not in ("prompt", "seed")
    )
    return f"{bench.device} | {bench.model} {bench.dtype}{f' | {inputs}' if inputs else ''}"


def _read(file: Path) -> dict[str, Any]:
    return read_json(file)
