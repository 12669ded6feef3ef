"""Make a device map for one model: from a mapping of module paths, or by the sizes of its blocks."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from ..device_map import DeviceMap, longest_prefix
from .away import blocks
from .limits import account
from .offload import _bytes
from .sizes import tensors_of

_SHOWN = 4  # names in an error text


def split_by_paths(name: str, model: nn.Module, asked: Mapping[str, object], dtype: torch.dtype) -> DeviceMap | str:
    """The cut that a map of module paths asks for, or the device, where it names one alone.

    Raises:
        ConfigError: paths that are no modules, devices that torch does not know, modules that it says nothing of, or
            one tensor in two places.
    """
    places = {path: device_named(f"{name}, {path!r}", device) for path, device in asked.items()}
    paths = dict(model.named_modules())
    if lost := [path for path in places if path not in paths]:
        said = "\n".join(f"  {path!r}: {did_you_mean(path, _near(path, paths))}" for path in lost)
        raise ConfigError(f"device_map: {name} is a {type(model).__name__}, which has no such modules.\n{said}")
    owned = [(path, module) for path, module in paths.items() if next(own(module), None) is not None]
    if bare := [path for path, _ in owned if longest_prefix(path, places) not in places]:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        raise ConfigError(
            f"device_map: {name} says no device for {', '.join(p or 'the model itself' for p in bare[:_SHOWN])}{more}. "
            f"Add them, or a device for all that is not named: {{'': {next(iter(places.values()), 'cuda:0')!r}}}."
        )
    at: dict[int, tuple[str, str]] = {}
    for path, module in owned:
        for tensor in own(module):
            before, device = at.setdefault(id(tensor), (path, places[longest_prefix(path, places)]))
            if (here := places[longest_prefix(path, places)]) != device:
                raise ConfigError(
                    f"device_map: {name}'s {before} and {path} share one tensor, and came as {device} and {here}. "
                    "Give them one device."
                )
    return _device_map(model, places, dtype)


def split_by_size(model: nn.Module, room: Mapping[str, int], dtype: torch.dtype) -> DeviceMap | str | None:
    """A model over several devices by its blocks, in their order, each device filled as far as the others; None where
    it does not fit. What stands outside of lists, and so works at the beginning and the end, is on the first device.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    sizes = {paths[id(b)]: _bytes(tensors_of(b), dtype) for b in blocks(model, lambda m: _bytes(tensors_of(m), dtype))}
    rest = _bytes(tensors_of(model), dtype) - sum(sizes.values())
    low, high, best = 0.0, 1.0, _filled(sizes, rest, room, 1.0)
    if best is None:
        return None
    for _ in range(24):
        middle = (low + high) / 2
        if (found := _filled(sizes, rest, room, middle)) is None:
            low = middle
        else:
            high, best = middle, found
    return _device_map(model, best, dtype)


def _filled(sizes: Mapping[str, int], rest: int, room: Mapping[str, int], part: float) -> dict[str, str] | None:
    """Blocks one after another, to the next device where one would be filled beyond this part of its room."""
    devices = iter([(device, int(most * part)) for device, most in room.items()])
    if (now := next(((d, most) for d, most in devices if most >= rest), None)) is None:
        return None
    places, (device, left) = {"": now[0]}, (now[0], now[1] - rest)
    for path, size in sizes.items():
        while size > left:
            if (following := next(devices, None)) is None:
                return None
            device, left = following
        left -= size
        if device != places[""]:
            places[path] = device
    return places


def device_named(what: str, place: object) -> str:
    """A device by its name, as it is counted under. ConfigError, beginning with what it is for, otherwise."""
    try:
        return account(str(torch.device(place)))  # type: ignore[arg-type]  # whatever came
    except (RuntimeError, TypeError):
        raise ConfigError(f"device_map: {what} came as {place!r}; wanted a device such as 'cuda:0' or 'cpu'.") from None


def _device_map(model: nn.Module, places: Mapping[str, str], dtype: torch.dtype) -> DeviceMap | str:
    held: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        if tensors := list(own(module)):
            held.setdefault(places[longest_prefix(path, places)], []).extend(tensors)
    if len(held) < 2:
        return next(iter(held), places.get("", "cpu"))
    return DeviceMap(tuple(places.items()), tuple((device, _bytes(tensors, dtype)) for device, tensors in held.items()))


def own(module: nn.Module) -> Iterator[Tensor]:
    """The tensors of a module itself."""
    yield from (t for t in (*module._parameters.values(), *module._buffers.values()) if isinstance(t, Tensor))


def _near(path: str, paths: Mapping[str, object]) -> list[str]:
    """The modules beside a path that is none: those of the longest part of it that is one."""
    parent = path.rpartition(".")[0]
    while parent and parent not in paths:
        parent = parent.rpartition(".")[0]
    head = f"{parent}." if parent else ""
    return [p for p in paths if p.startswith(head) and p and "." not in p[len(head) :]]
