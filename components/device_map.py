"""The device of each module of a model, as a value."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

Parts = Mapping[Hashable, int]
"""Pieces of memory and their bytes, by identity. Memory that two components share has one identity in both."""


@dataclass(frozen=True)
class DeviceMap:
    """The devices of a model whose modules lie on several of them.

    entries: pairs of a module path and a device. The longest path that leads to a tensor decides its device; "" is
    the path of the model. sizes: pairs of a device and the bytes of the model's tensors there. The first one is the
    main device, where the model takes and returns its values: that of its first tensor.
    """

    entries: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, int], ...] = field(compare=False)

    @property
    def main_device(self) -> str:
        """The device on which the model takes and returns values."""
        return self.sizes[0][0]

    @cached_property
    def _devices(self) -> Mapping[str, str]:
        return dict(self.entries)

    def device_of(self, path: str) -> str:
        """The device of a module or a tensor; the main one for a module without tensors that no entry names."""
        return self._devices.get(longest_prefix(path, self._devices), self.main_device)

    def expected_parts(self, key: str, size: int) -> dict[str, Parts]:
        """The expected memory on each device, by `sizes`, of a component of `size` bytes that is not loaded."""
        whole = sum(share for _, share in self.sizes)
        return {device: {(device, key): size * share // whole} for device, share in self.sizes}

    def parts_by_device(self, parts: Parts) -> dict[str, Parts]:
        """The memory of the loaded model, by device. The identity of a part begins with its device."""
        found: dict[str, dict[Hashable, int]] = {device: {} for device, _ in self.sizes}
        for part, size in parts.items():
            assert isinstance(part, tuple)
            found[str(part[0])][part] = size
        return {**found}

    @property
    def key(self) -> str:
        """A text that is equal for equal maps and unlike for others."""
        return ", ".join(f"{path or 'all'}: {device}" for path, device in self.entries)

    def __str__(self) -> str:
        return " + ".join(device for device, _ in self.sizes)


def longest_prefix(path: str, paths: Mapping[str, object]) -> str:
    """The longest of `paths` that leads to this module or tensor; "" where none does."""
    while path and path not in paths:
        path = path.rpartition(".")[0]
    return path
