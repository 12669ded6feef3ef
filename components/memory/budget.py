"""A memory budget: the most bytes of weights that each device may hold."""

from collections.abc import Mapping
from typing import cast

import torch

from ...graph.errors import ConfigError
from .sizes import parse_size, show_size


def canonical_device(device: str) -> str:
    """The one name of a device: "cuda" without a number is the current CUDA device.

    >>> canonical_device("cpu"), canonical_device("cuda:1")
    ('cpu', 'cuda:1')
    """
    parsed = torch.device(device)
    if parsed.type in ("cpu", "meta", "mps"):
        return parsed.type
    if ":" in device:
        return str(parsed)
    current = torch.cuda.current_device() if parsed.type == "cuda" and torch.cuda.is_available() else 0
    return f"{parsed.type}:{current}"


class Budget:
    """The most bytes that a device may hold, as a function of its name; None for no limit.

    A limit for "cuda" holds for each CUDA device that has no limit of its own.
    """

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)

    @classmethod
    def read(cls, budget: "int | str | Mapping[str, int | str] | None", device: str) -> "Budget":
        """A budget from a user's argument; a single number or text is the limit of `device`.

        Raises:
            ConfigError: a device that torch does not know, or a size that is none.
        """
        if budget is None:
            return cls({})
        by_device = budget if isinstance(budget, Mapping) else {device: budget}
        limits: dict[str, int] = {}
        for name, size in cast("Mapping[object, int | str]", by_device).items():
            try:
                parsed = torch.device(cast("str", name))
            except (RuntimeError, TypeError):
                raise ConfigError(
                    f"budget: needs the names of devices. Got {name!r}. Write for example "
                    "{'cuda': '8GB', 'cpu': '24GB'}."
                ) from None
            limits[parsed.type if parsed.type == "cpu" else str(parsed)] = parse_size(size, f"budget of {name}")
        return cls(limits)

    def __call__(self, device: str) -> int | None:
        """The limit of a device in bytes; None for no limit."""
        return self._limits.get(device, self._limits.get(device.partition(":")[0]))

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        return ", ".join(f"{device} {show_size(size)}" for device, size in self._limits.items()) or "no budget"
