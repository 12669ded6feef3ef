"""Make the device map of one model: from a mapping of module paths, or by the sizes of its blocks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..device_map import DeviceMap, longest_prefix
from .devices import canonical_device, device_name
from .tensors import blocks_of, bytes_as, own_tensors, tensors_of

_SHOWN = 4  # names in an error text


def split_by_paths(name: str, model: nn.Module, devices: Mapping[str, object], dtype: torch.dtype) -> DeviceMap | str:
    """The device map for a mapping of module paths to devices; the device, if the mapping uses one alone.

    name: the component's, for error texts. dtype: what its weights are loaded in.

    Raises:
        ConfigError: a path that is no module, a device that torch does not know, a module that no path covers, or a
            tensor that two modules share and that gets two devices.
    """
    named = {path: device_from(f"{name}.{path}".rstrip("."), device) for path, device in devices.items()}
    modules = dict(model.named_modules())
    if unknown := [path for path in named if path not in modules]:
        hints = "\n".join(f"  {path!r}: {did_you_mean(path, _siblings(path, modules))}" for path in unknown)
        raise ConfigError(f"device_map: {name} is a {type(model).__name__}, which has no such modules.\n{hints}")
    owners = [(path, module) for path, module in modules.items() if next(own_tensors(module), None) is not None]
    if uncovered := [path for path, _ in owners if longest_prefix(path, named) not in named]:
        more = f" and {len(uncovered) - _SHOWN} more" if len(uncovered) > _SHOWN else ""
        shown = ", ".join(path or "the model itself" for path in uncovered[:_SHOWN])
        raise ConfigError(
            f"device_map: {name} needs a device for each module. Got none for {shown}{more}. Add them, or a device "
            f"for all that is not named: {{'': {next(iter(named.values()), 'cuda:0')!r}}}."
        )
    device_of: dict[int, tuple[str, str]] = {}
    for path, module in owners:
        device = named[longest_prefix(path, named)]
        for tensor in own_tensors(module):
            first_path, first_device = device_of.setdefault(id(tensor), (path, device))
            if device != first_device:
                raise ConfigError(
                    f"device_map: {name}'s {first_path} and {path} share one tensor, so they need one device. Got "
                    f"{first_device} and {device}."
                )
    return _device_map(model, named, dtype)


def split_by_size(model: nn.Module, room: Mapping[str, int], dtype: torch.dtype) -> DeviceMap | str | None:
    """Split a model between its blocks, in order, so that each device is filled to the same fraction.

    Modules outside of module lists, which run first and last, go to the first device. room: bytes by device. Gives a
    device if one is enough, and None if the model does not fit.
    """
    paths = {id(module): path for path, module in model.named_modules()}

    def size(module: nn.Module) -> int:
        return bytes_as(tensors_of(module), dtype)

    sizes = {paths[id(block)]: size(block) for block in blocks_of(model, size)}
    rest = size(model) - sum(sizes.values())
    low, high, best = 0.0, 1.0, _fill(sizes, rest, room, 1.0)
    if best is None:
        return None
    for _ in range(24):
        middle = (low + high) / 2
        if (found := _fill(sizes, rest, room, middle)) is None:
            low = middle
        else:
            high, best = middle, found
    return _device_map(model, best, dtype)


def _fill(sizes: Mapping[str, int], rest: int, room: Mapping[str, int], fraction: float) -> dict[str, str] | None:
    """The device of each block if each device is filled to this fraction of its room; None if they do not fit so."""
    devices = iter([(device, int(most * fraction)) for device, most in room.items()])
    if (first := next(((d, most) for d, most in devices if most >= rest), None)) is None:
        return None
    entries, (device, left) = {"": first[0]}, (first[0], first[1] - rest)
    for path, size in sizes.items():
        while size > left:
            if (following := next(devices, None)) is None:
                return None
            device, left = following
        left -= size
        if device != entries[""]:
            entries[path] = device
    return entries


def device_from(what: str, device: object) -> str:
    """The canonical name of a device that a user named. ConfigError, with `what` it is for, if it is none."""
    return canonical_device(device_name(device, f"device_map of {what}"))


def _device_map(model: nn.Module, entries: Mapping[str, str], dtype: torch.dtype) -> DeviceMap | str:
    tensors: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        if own := list(own_tensors(module)):
            tensors.setdefault(entries[longest_prefix(path, entries)], []).extend(own)
    if len(tensors) < 2:
        return next(iter(tensors), entries.get("", "cpu"))
    return DeviceMap(tuple(entries.items()), tuple((device, bytes_as(own, dtype)) for device, own in tensors.items()))


def _siblings(path: str, modules: Mapping[str, object]) -> list[str]:
    """The modules that a wrong path may mean: the children of its longest part that is a module."""
    parent = path.rpartition(".")[0]
    while parent and parent not in modules:
        parent = parent.rpartition(".")[0]
    head = f"{parent}." if parent else ""
    return [p for p in modules if p.startswith(head) and p and "." not in p[len(head) :]]
