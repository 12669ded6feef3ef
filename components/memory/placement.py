"""Which component goes to which device: as a user says, or by sizes and free memory."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..spec import ComponentSpec, dtype_name
from .sizes import expected_bytes

if TYPE_CHECKING:
    from ..manager import ComponentsManager, Handle

BY_SIZE = ("balanced", "auto")
SPARE = 0.1  # of a device's free memory, for what models compute


@dataclass(frozen=True)
class Where:
    """Where the components of a pipeline go: one device, and a map for those that go elsewhere."""

    device: Any = None  # what torch.device takes, or None for the manager's
    device_map: Any = None  # see `placed`

    def handles(
        self, specs: Mapping[str, ComponentSpec], manager: "ComponentsManager", dtype: Any, known: Collection[str]
    ) -> "dict[str, Handle]":
        """A handle for each of these, by name."""
        if dtype is not None:
            specs = {name: spec.using(dtype=dtype_name(dtype)) for name, spec in specs.items()}
        place = placed(self.device_map, specs, manager.dtype, known)
        return {
            name: manager.handle(spec, device=place.get(name, self.device), name=name) for name, spec in specs.items()
        }


def placed(
    device_map: object,
    specs: Mapping[str, ComponentSpec],
    dtype: str,
    known: Collection[str],
    room: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """A device for each of `specs` that the map decides about; the others go where the manager says.

    `{"unet": "cuda:0", "text_encoder": "cpu"}`, or "balanced" (and "auto", which accelerate has for the same): see
    `balanced`. `known` are the names that a map may have; `room` the bytes that devices have, by default what CUDA says
    is free. What has no size beforehand, as a component that is quantized while it loads, is not placed by size.

    Raises:
        ConfigError: names that no component has, devices that torch does not know, or no such map.
    """
    if device_map is None:
        return {}
    if device_map in BY_SIZE:
        sizes = {name: expected_bytes(spec, spec.dtype or dtype) for name, spec in specs.items()}
        return balanced({name: size for name, size in sizes.items() if size}, _free() if room is None else room)
    if not isinstance(device_map, Mapping):
        raise ConfigError(
            f"device_map: came {device_map!r}; wanted 'balanced', or a device for each component, as in "
            f"{{{next(iter(specs), 'unet')!r}: 'cuda:0'}}. One device for all is device=…"
        )
    asked = {str(name): place for name, place in cast("Mapping[object, Any]", device_map).items()}
    if lost := [name for name in asked if name not in known]:
        raise ConfigError(f"device_map: no component {lost[0]!r}. {did_you_mean(lost[0], known)}")
    return {name: place for name, given in asked.items() if (place := _device(name, given)) and name in specs}


def balanced(sizes: Mapping[str, int], room: Mapping[str, int]) -> dict[str, str]:
    """Components as wholes, the largest first, each to the device that then has the most room left; those that fit
    nowhere stay on the CPU.

    >>> balanced({"unet": 5, "text_encoder": 3, "vae": 1}, {"cuda:0": 8, "cuda:1": 7})
    {'unet': 'cuda:0', 'text_encoder': 'cuda:1', 'vae': 'cuda:1'}
    """
    left = dict(room)
    found: dict[str, str] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        device = max(left, key=lambda place: left[place], default=None)
        if device is None or sizes[name] > left[device]:
            found[name] = "cpu"
        else:
            found[name] = device
            left[device] -= sizes[name]
    return found


def _device(name: str, place: Any) -> str:  # what torch.device takes
    try:
        return str(torch.device(place))
    except (RuntimeError, TypeError):
        raise ConfigError(f"device_map: {name} came as {place!r}; wanted a device such as 'cuda:0' or 'cpu'.") from None


def _free() -> dict[str, int]:
    """Bytes that each CUDA device has for weights."""
    if not torch.cuda.is_available():
        return {}
    devices = range(torch.cuda.device_count())
    return {f"cuda:{i}": int(torch.cuda.mem_get_info(i)[0] * (1 - SPARE)) for i in devices}
