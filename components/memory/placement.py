"""Which component goes to which device, or to which devices: as a user says, or by sizes and free memory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..device_map import DeviceMap
from ..handle import Handle, Loader
from ..loading.component import model_without_weights
from ..spec import ComponentSpec, dtype_name
from .expected import expected_bytes
from .splitting import device_named, split_by_paths, split_by_size

BY_SIZE = ("balanced", "auto")
Place = str | DeviceMap
SPARE = 0.1  # of a device's free memory, for what models compute


@dataclass(frozen=True)
class Where:
    """Where the components of a pipeline go: one device, and a map for those that go elsewhere."""

    device: Any = None  # what torch.device takes, or None for the manager's
    device_map: Any = None  # see `placed`

    def handles(
        self, specs: Mapping[str, ComponentSpec], manager: Loader, dtype: Any, known: Collection[str]
    ) -> dict[str, Handle]:
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
) -> dict[str, Place]:
    """A device, or a cut over several, for each of `specs` that the map decides about; the others go where the manager
    says.

    `{"unet": "cuda:0", "text_encoder": "cpu"}`, or "balanced" (and "auto", which accelerate has for the same): see
    `balanced`. A component's entry may be a map of its own, from module paths to devices, of which the longest holds:
    `{"unet": {"": "cuda:0", "up_blocks": "cuda:1"}}`; or "balanced", which cuts it over all devices by their room.
    `known` are the names that a map may have; `room` the bytes that devices have, by default what CUDA says is free.
    What has no size beforehand, as a component that is quantized while it loads, is not placed by size.

    Raises:
        ConfigError: names that no component has, devices that torch does not know, maps that do not cover a component,
            or no such map.
    """
    if device_map is None:
        return {}
    room = _free() if room is None else room
    sizes = _Sizes(specs, dtype)
    if device_map in BY_SIZE:
        return balanced(sizes.all(), room, sizes.cut)
    if not isinstance(device_map, Mapping):
        raise ConfigError(
            f"device_map: came {device_map!r}; wanted 'balanced', or a device for each component, as in "
            f"{{{next(iter(specs), 'unet')!r}: 'cuda:0'}}. One device for all is device=…"
        )
    asked = {str(name): place for name, place in cast("Mapping[object, Any]", device_map).items()}
    if lost := [name for name in asked if name not in known]:
        raise ConfigError(f"device_map: no component {lost[0]!r}. {did_you_mean(lost[0], known)}")
    by_size = [name for name, given in asked.items() if given in BY_SIZE and name in specs]
    found: dict[str, Place] = {}
    for name, given in asked.items():
        if isinstance(given, Mapping):
            if name in specs:
                found[name] = _as_told(name, specs[name], cast("Mapping[object, object]", given), dtype)
        elif given not in BY_SIZE and (device := device_named(name, given)) and name in specs:
            found[name] = device
    left = dict(room)
    if by_size:
        for name, place in found.items():
            _take(left, place, sizes.of(name))
    for name in by_size:
        found[name] = sizes.cut(name, left) or balanced({name: sizes.of(name)}, left)[name]
        _take(left, found[name], sizes.of(name))
    return found


def place_of(device_map: object, spec: ComponentSpec, dtype: str) -> Place | None:
    """The same for one component: a device, a map of its module paths, or "balanced"."""
    return placed({"it": device_map}, {"it": spec}, dtype, ("it",)).get("it") if device_map is not None else None


def balanced(
    sizes: Mapping[str, int],
    room: Mapping[str, int],
    cut: Callable[[str, Mapping[str, int]], Place | None] = lambda name, room: None,
) -> dict[str, Place]:
    """The largest component first, each to the device that then has the most room left. One that is larger than that is
    cut by its blocks over all devices, if it fits them together; else it stays on the CPU.

    `cut` cuts a component of that name to fit what devices have left, or gives None.

    >>> balanced({"unet": 5, "text_encoder": 3, "vae": 1}, {"cuda:0": 8, "cuda:1": 7})
    {'unet': 'cuda:0', 'text_encoder': 'cuda:1', 'vae': 'cuda:1'}
    """
    left = dict(room)
    found: dict[str, Place] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        device = max(left, key=lambda place: left[place], default="cpu")
        fits = sizes[name] <= left.get(device, 0)
        parts = None if fits or sizes[name] > sum(left.values()) else cut(name, left)
        found[name] = device if fits else parts or "cpu"
        _take(left, found[name], sizes[name])
    return found


def _take(left: dict[str, int], place: Place, size: int) -> None:
    shares = place.sizes if isinstance(place, DeviceMap) else ((place, size),)
    for device, share in shares:
        if device in left:
            left[device] = max(0, left[device] - share)


class _Sizes:
    """What components will take, read where it is asked."""

    def __init__(self, specs: Mapping[str, ComponentSpec], dtype: str) -> None:
        self._specs, self._dtype = specs, dtype

    def of(self, name: str) -> int:
        spec = self._specs[name]
        return expected_bytes(spec, spec.dtype or self._dtype)

    def all(self) -> dict[str, int]:
        """Those of all that have one."""
        return {name: size for name in self._specs if (size := self.of(name))}

    def cut(self, name: str, room: Mapping[str, int]) -> Place | None:
        """A component over these devices; None for one that does not fit, or is read as a whole."""
        model = model_without_weights(spec := self._specs[name])
        return None if isinstance(model, str) else split_by_size(model, room, _dtype(spec, self._dtype))


def _as_told(name: str, spec: ComponentSpec, asked: Mapping[object, object], dtype: str) -> Place:
    """A component as a map of its module paths says."""
    places = {str(path): device for path, device in asked.items()}
    if isinstance(model := model_without_weights(spec), str):
        raise ConfigError(f"device_map: {name} {model}, and came with a map of its modules. Give it one device.")
    return split_by_paths(name, model, places, _dtype(spec, dtype))


def _dtype(spec: ComponentSpec, dtype: str) -> torch.dtype:
    return getattr(torch, spec.dtype or dtype)


def _free() -> dict[str, int]:
    """Bytes that each CUDA device has for weights."""
    if not torch.cuda.is_available():
        return {}
    devices = range(torch.cuda.device_count())
    return {f"cuda:{i}": int(torch.cuda.mem_get_info(i)[0] * (1 - SPARE)) for i in devices}
