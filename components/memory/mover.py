"""The only place that reads weights, moves them between devices, and measures their memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...graph.errors import LoadError, SfumatoError
from ...graph.failures import allocation_in
from ...graph.files.faults import file_errors
from ..device_map import DeviceMap, Parts
from ..loading.component import read_component
from ..spec import ComponentSpec
from ..storage.weights import move
from .devices import check_device
from .offloaded import WeightStream
from .tensors import parts_of


class Mover:
    """Reads components, moves them, and measures their memory. Call it under the loading lock.

    Tests subclass it to simulate devices: no other code asks a tensor for its device.
    """

    def check_device(self, device: str) -> None:
        """Raise ConfigError if this machine has no such device."""
        check_device(device)

    def read(self, spec: ComponentSpec, dtype: str, device: str | DeviceMap) -> Any:  # an object of the spec's class
        """The component from its files, in `dtype` on `device`. LoadError if it cannot be read."""
        try:
            with file_errors(spec):
                return read_component(spec, getattr(torch, dtype), _device_for(device))
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, SfumatoError) or (needed := allocation_in(error)) is None:
                raise
            raise LoadError(f"{spec}: needs {needed} of memory at once, more than is free.") from error

    def make(self, make: Callable[[], Any], device: str | DeviceMap) -> Any:  # any component
        """A component that is computed, on `device`."""
        made = make()
        self.move(made, device)
        return made

    def move(self, component: Any, device: str | DeviceMap) -> None:  # any component
        """Move its tensors to a device, one after another. Views share its parameters, so they move with it."""
        if isinstance(component, nn.Module):
            move(component, _device_for(device))

    def stream(self, device: str, count: int, prefetch: bool) -> WeightStream:
        """A stream that copies weights to a device while a model runs: `count` groups at a time."""
        return WeightStream(torch.device(device), count=count, prefetch=prefetch)

    def parts(self, component: Any) -> Parts:  # any component
        """The memory that it takes, in bytes."""
        return parts_of(component)


def _device_for(device: str | DeviceMap) -> Any:  # a device, or a function from a path to one
    return device.device_of if isinstance(device, DeviceMap) else device
