"""A memory budget: the most bytes of weights that each device may hold."""

from collections.abc import Mapping
from typing import cast

from .devices import device_name
from .sizes import parse_size, show_size


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
            device = device_name(name, "budget")
            limits["cpu" if device.startswith("cpu") else device] = parse_size(size, f"budget of {name}")
        return cls(limits)

    def __call__(self, device: str) -> int | None:
        """The limit of a device in bytes; None for no limit."""
        return self._limits.get(device, self._limits.get(device.partition(":")[0]))

    @property
    def limits(self) -> Mapping[str, int]:
        """The limit of each device that has one."""
        return dict(self._limits)

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        return ", ".join(f"{device} {show_size(size)}" for device, size in self._limits.items()) or "no budget"
