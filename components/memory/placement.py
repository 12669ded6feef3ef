"""On which device each component of a pipeline goes: as a user's `device_map` says, or by sizes and free memory."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..device_map import DeviceMap
from ..handle import Handle, Loader
from ..loading.component import model_without_weights
from ..loading.specs import first_model
from ..spec import ComponentSpec, dtype_name
from .estimate import estimated_bytes
from .splitting import device_from, split_by_paths, split_by_size

BY_SIZE = ("balanced", "auto")
"""The device maps that are made by sizes; "auto" is accelerate's name for the same."""
Device = str | DeviceMap
_RESERVED = 0.1  # the fraction of a device's free memory that is left for what models compute


@dataclass(frozen=True)
class Placement:
    """The `device` and `device_map` arguments of `sf.load`: one device, and a map for components on others.

    device: what torch.device takes; None for the manager's device. device_map: see `assign_devices`.
    """

    device: Any = None
    device_map: Any = None

    def handles(
        self, specs: Mapping[str, ComponentSpec], manager: Loader, dtype: Any, known: Collection[str]
    ) -> dict[str, Handle]:
        """A handle for each spec, on its device.

        dtype: see `with_dtypes`. known: the component names that maps may have.

        Raises:
            ConfigError: a map does not fit.
        """
        specs = with_dtypes(specs, dtype, known)
        devices = assign_devices(self.device_map, specs, manager.dtype, known)
        return {
            name: manager.handle(spec, device=devices.get(name, self.device), name=name) for name, spec in specs.items()
        }


def with_dtypes(specs: Mapping[str, ComponentSpec], dtype: Any, known: Collection[str]) -> dict[str, ComponentSpec]:
    """These specs with the dtype that a user passed.

    dtype: a torch.dtype or its name, for all; or one for each component, {"unet": "float16", "default": "bfloat16"},
    where "default" is for those that it does not name. None changes nothing. known: the names that it may have.

    Raises:
        ConfigError: an unknown component, or no floating dtype.
    """
    if dtype is None:
        return dict(specs)
    if not isinstance(dtype, Mapping):
        return {name: spec.using(dtype=dtype_name(dtype)) for name, spec in specs.items()}
    by_name = {str(name): dtype_name(value) for name, value in cast("Mapping[object, object]", dtype).items()}
    if unknown := [name for name in by_name if name not in (*known, "default")]:
        raise ConfigError(f"dtype: no component {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    found = {name: by_name.get(name, by_name.get("default")) for name in specs}
    return {name: spec if found[name] is None else spec.using(dtype=found[name]) for name, spec in specs.items()}


def assign_devices(
    device_map: object,
    specs: Mapping[str, ComponentSpec],
    dtype: str,
    known: Collection[str],
    room: Mapping[str, int] | None = None,
) -> dict[str, Device]:
    """The device of each component that a device map names, or the map of one that it splits over several.

    device_map: one of three forms. `{"unet": "cuda:0", "text_encoder": "cpu"}` names devices. A component's value may
    be a map of its own, from module paths to devices, of which the longest path decides: `{"unet": {"": "cuda:0",
    "up_blocks": "cuda:1"}}`; or "balanced", which splits that component over all devices. "balanced" for the whole
    pipeline places all by size: see `balanced`. A component whose size is not known before loading is left out.
    dtype: of specs that name none. known: the component names that a map may have. room: bytes by device; by default
    the free memory of each CUDA device.

    Raises:
        ConfigError: an unknown component, device or module; a map that does not cover a component; another form.
    """
    if device_map is None:
        return {}
    room = _free_memory() if room is None else room
    sizes = _Sizes(specs, dtype)
    if device_map in BY_SIZE:
        return balanced(sizes.all(), room, sizes.split)
    if not isinstance(device_map, Mapping):
        raise ConfigError(
            f"device_map: needs 'balanced', or a device for each component, as in "
            f"{{{first_model(specs)!r}: 'cuda:0'}}. Got {device_map!r}. One device for all is device=…"
        )
    by_name = {str(name): value for name, value in cast("Mapping[object, Any]", device_map).items()}
    if unknown := [name for name in by_name if name not in known]:
        raise ConfigError(f"device_map: no component {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
    by_size = [name for name, value in by_name.items() if value in BY_SIZE and name in specs]
    devices: dict[str, Device] = {}
    for name, value in by_name.items():
        if isinstance(value, Mapping):
            if name in specs:
                devices[name] = _split_as(name, specs[name], cast("Mapping[object, object]", value), dtype)
        elif value not in BY_SIZE and (device := device_from(name, value)) and name in specs:
            devices[name] = device
    left = dict(room)
    if by_size:
        for name, device in devices.items():
            _take(left, device, sizes.of(name))
    for name in by_size:
        devices[name] = sizes.split(name, left) or balanced({name: sizes.of(name)}, left)[name]
        _take(left, devices[name], sizes.of(name))
    return devices


def assign_device(device_map: object, spec: ComponentSpec, dtype: str) -> Device | None:
    """The same for one component: `device_map` is a device, a map of its module paths, or "balanced"."""
    return (
        assign_devices({"it": device_map}, {"it": spec}, dtype, ("it",)).get("it") if device_map is not None else None
    )


def balanced(
    sizes: Mapping[str, int],
    room: Mapping[str, int],
    split: Callable[[str, Mapping[str, int]], Device | None] = lambda name, room: None,
) -> dict[str, Device]:
    """Place components by size: the largest first, each on the device with the most room left.

    A component larger than that room is split between its blocks over all devices, if it fits on them together; else
    it stays on the CPU. sizes: bytes by component. room: bytes by device. split: splits the component of that name by
    the room that is left, or gives None.

    >>> balanced({"unet": 5, "text_encoder": 3, "vae": 1}, {"cuda:0": 8, "cuda:1": 7})
    {'unet': 'cuda:0', 'text_encoder': 'cuda:1', 'vae': 'cuda:1'}
    """
    left = dict(room)
    devices: dict[str, Device] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        device = max(left, key=lambda place: left[place], default="cpu")
        fits = sizes[name] <= left.get(device, 0)
        device_map = None if fits or sizes[name] > sum(left.values()) else split(name, left)
        devices[name] = device if fits else device_map or "cpu"
        _take(left, devices[name], sizes[name])
    return devices


def _take(left: dict[str, int], device: Device, size: int) -> None:
    for name, share in device.sizes if isinstance(device, DeviceMap) else ((device, size),):
        if name in left:
            left[name] = max(0, left[name] - share)


class _Sizes:
    """The sizes of components, estimated when they are needed."""

    def __init__(self, specs: Mapping[str, ComponentSpec], dtype: str) -> None:
        self._specs, self._dtype = specs, dtype

    def of(self, name: str) -> int:
        """Bytes of one component; 0 if they are not known before loading."""
        spec = self._specs[name]
        return estimated_bytes(spec, spec.dtype or self._dtype)

    def all(self) -> dict[str, int]:
        """The known sizes, by name."""
        return {name: size for name in self._specs if (size := self.of(name))}

    def split(self, name: str, room: Mapping[str, int]) -> Device | None:
        """A component over these devices; None if it does not fit, or can only be read as a whole."""
        model = model_without_weights(spec := self._specs[name])
        return None if isinstance(model, str) else split_by_size(model, room, _dtype_of(spec, self._dtype))


def _split_as(name: str, spec: ComponentSpec, paths: Mapping[object, object], dtype: str) -> Device:
    """A component split as a map of its module paths says."""
    devices = {str(path): device for path, device in paths.items()}
    if isinstance(model := model_without_weights(spec), str):
        raise ConfigError(f"device_map: {name} {model}, so it needs one device. Got a map of its modules.")
    return split_by_paths(name, model, devices, _dtype_of(spec, dtype))


def _dtype_of(spec: ComponentSpec, dtype: str) -> torch.dtype:
    return getattr(torch, spec.dtype or dtype)


def _free_memory() -> dict[str, int]:
    """Bytes for weights on each CUDA device."""
    if not torch.cuda.is_available():
        return {}
    devices = range(torch.cuda.device_count())
    return {f"cuda:{i}": int(torch.cuda.mem_get_info(i)[0] * (1 - _RESERVED)) for i in devices}
