"""A memory budget: how many bytes of weights each device may hold."""

from collections.abc import Mapping
from typing import cast

import torch

from ...graph.errors import ConfigError
from .sizes import parse_size, show_size


def account(device: str) -> str:
    """The name that a device is counted under: "cuda" is the current one of its kind, by its number.

    >>> account("cpu"), account("cuda:1")
    ('cpu', 'cuda:1')
    """
    there = torch.device(device)
    if there.type in ("cpu", "meta", "mps"):
        return there.type
    if ":" in device:
        return str(there)
    current = torch.cuda.current_device() if there.type == "cuda" and torch.cuda.is_available() else 0
    return f"{there.type}:{current}"


class Limits:
    """The budget as a function of the device. That of "cuda" holds for each CUDA device that has none of its own."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)

    @classmethod
    def read(cls, budget: "int | str | Mapping[str, int | str] | None", device: str) -> "Limits":
        """A budget as a user gives it; a single number or text is for `device`. ConfigError for what is none."""
        if budget is None:
            return cls({})
        given = budget if isinstance(budget, Mapping) else {device: budget}
        limits: dict[str, int] = {}
        for name, size in cast("Mapping[object, int | str]", given).items():
            try:
                kind = torch.device(cast("str", name))
            except (RuntimeError, TypeError):
                raise ConfigError(
                    f"budget: {name!r} is no device. Write for example {{'cuda': '8GB', 'cpu': '24GB'}}."
                ) from None
            limits[kind.type if kind.type == "cpu" else str(kind)] = parse_size(size, f"budget of {name}")
        return cls(limits)

    def __call__(self, device: str) -> int | None:
        return self._limits.get(device, self._limits.get(device.partition(":")[0]))

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        return ", ".join(f"{device} {show_size(size)}" for device, size in self._limits.items()) or "no budget"
