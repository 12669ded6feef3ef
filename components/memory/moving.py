"""Who moves: the only place where weights are read, change their device, and are let go."""

from typing import Any

import torch
from torch import nn

from ..device_map import DeviceMap
from ..loading.component import read_component
from ..spec import ComponentSpec
from ..storage.weights import move
from .away import Stream
from .sizes import Parts, parts_of


class Mover:
    """Reads components, moves them, and counts what they take. Callers hold the loading lock.

    Simulations of a device subclass it: no other code asks a tensor where it is.
    """

    def read(self, spec: ComponentSpec, dtype: str, device: str | DeviceMap) -> Any:  # an object of the spec's class
        """The component from its files, in `dtype` on `device`. LoadError says what is wrong."""
        return read_component(
            spec, getattr(torch, dtype), device.device_of if isinstance(device, DeviceMap) else device
        )

    def move(self, component: Any, device: str | DeviceMap) -> None:  # any component
        """Bring its tensors to a device, tensor by tensor. Views share its parameters and so come along."""
        if isinstance(component, nn.Module):
            move(component, device.device_of if isinstance(device, DeviceMap) else device)

    def stream(self, device: str, count: int, prefetch: bool) -> Stream:
        """What brings weights to a device while a model runs."""
        return Stream(torch.device(device), count=count, prefetch=prefetch)

    def parts(self, component: Any) -> Parts:  # any component
        """What it takes, wherever it is."""
        return parts_of(component)
