"""Whether the numbers of a run are finite, without waiting for a device until the run ends."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple

HALF = {"torch.float16": "float16 holds numbers up to 65504.", "torch.bfloat16": "bfloat16 has 8 bits of precision."}


_PLAIN = frozenset({int, float, str, bool, bytes, type(None)})
"""Types that hold no tensor, so that a block with such values costs no more."""


class NotFiniteAt(NamedTuple):
    """The first value of a run with NaN or infinity: which node gave it, as which output, in which turns of loops.

    An input of the graph has the path "".
    """

    path: str
    port: str
    dtype: str
    turns: tuple[tuple[str, int], ...]


class FiniteFlags:
    """The extremes of each tensor that a run's nodes give, as numbers on the tensor's device; they are read once."""

    def __init__(self) -> None:
        self._seen: list[tuple[NotFiniteAt, Any, Any]] = []  # Any: tensors without dimensions

    def add(self, path: str, port: str, value: Any, turns: Mapping[str, tuple[int, Any]]) -> None:
        """Compute the extremes of the tensors in a value. NaN is an extreme too."""
        if type(value) in _PLAIN:
            return
        for tensor in tensors_in(value):
            inside = tuple((loop, done + 1) for loop, (done, _) in turns.items() if path.startswith(f"{loop}."))
            at = NotFiniteAt(path, port, str(tensor.dtype), inside)
            self._seen.append((at, tensor.amax(), tensor.amin()))

    def first(self) -> NotFiniteAt | None:
        """The first value that is not finite. This waits for the devices."""
        by_device: dict[Any, list[tuple[NotFiniteAt, Any]]] = {}
        for at, *extremes in self._seen:
            by_device.setdefault(extremes[0].device, []).extend((at, extreme.float()) for extreme in extremes)
        order = {id(at): number for number, (at, *_) in enumerate(self._seen)}
        bad = [
            at
            for seen in by_device.values()
            for (at, _), finite in zip(seen, _finite([extreme for _, extreme in seen]), strict=True)
            if not finite
        ]
        return min(bad, key=lambda at: order[id(at)], default=None)


def _finite(numbers: Sequence[Any]) -> Sequence[bool]:
    """Whether numbers of one device are finite, read in one transfer."""
    return sys.modules["torch"].stack(list(numbers)).isfinite().cpu().tolist()


def tensors_in(value: Any) -> Iterator[Any]:
    """The tensors of floats in a value: itself, or in its items or fields."""
    parts = (value,)
    if isinstance(value, tuple | list):
        parts = value
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, name) for name in _names(type(value))]
    for part in parts:
        if not hasattr(part, "is_floating_point") or part.is_meta or part.is_sparse:
            continue
        if part.is_floating_point() and part.numel() and part.itemsize > 1:
            yield part


@lru_cache(maxsize=256)
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def not_finite_text(at: NotFiniteAt, dtypes: Mapping[str, Mapping[str, str]]) -> str:
    """The text about numbers that are not finite. dtypes: of the components of each node, by path and name."""
    if not at.path:
        return f"The input {at.port} has NaN or infinite numbers ({at.dtype.removeprefix('torch.')})."
    where = "".join(f", turn {turn} of {loop!r}" for loop, turn in at.turns)
    text = f"{at.path} gave NaN or infinite numbers ({at.port}, {at.dtype.removeprefix('torch.')}{where})."
    loop = at.path.rpartition(".")[0]
    near = {p: own for p, own in dtypes.items() if p == at.path} or {
        p: own for p, own in dtypes.items() if p.rpartition(".")[0] == loop
    }
    small = {name: dtype for own in near.values() for name, dtype in own.items() if dtype in HALF}
    if small:
        names = " and ".join(f"{name} is {dtype.removeprefix('torch.')}" for name, dtype in small.items())
        larger = "float32" if "torch.bfloat16" in small.values() else "bfloat16 or float32"
        text += f" {names}: load it in {larger}, with dtype= of sf.load."
        if "vae" in small:
            text += " Or set force_upcast in the config of the autoencoder."
    return f"{text} A run within sf.debug() finds the first layer."
