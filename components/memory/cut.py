"""One component on several devices: which of its modules lie where, as a user says or by sizes."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError
from ...registry import did_you_mean
from .away import blocks
from .limits import account
from .offload import _bytes
from .sizes import Parts, tensors_of

_SHOWN = 4  # names in an error text


@dataclass(frozen=True)
class Cut:
    """Where the modules of a component lie.

    places: module paths and devices; a tensor lies where the longest path says that it is under. shares: the bytes
    that each device takes of it, that of its first tensor before the others: there it takes and gives its values.
    """

    places: tuple[tuple[str, str], ...]
    shares: tuple[tuple[str, int], ...] = field(compare=False)

    @property
    def main(self) -> str:
        return self.shares[0][0]

    @cached_property
    def _devices(self) -> Mapping[str, str]:
        return dict(self.places)

    def device(self, name: str) -> str:
        """The device of a module or a tensor."""
        return self._devices.get(_longest(name, self._devices), self.main)  # what has no tensors need not be named

    def expected(self, key: str, count: int) -> dict[str, Parts]:
        """What of a component of so many bytes will lie on each device."""
        whole = sum(share for _, share in self.shares)
        return {device: {(device, key): count * share // whole} for device, share in self.shares}

    def lying(self, parts: Parts) -> dict[str, Parts]:
        """What of its memory lies on each device."""
        found: dict[str, dict[Hashable, int]] = {device: {} for device, _ in self.shares}
        for part, size in parts.items():
            assert isinstance(part, tuple)  # a device, and where on it
            found[str(part[0])][part] = size
        return {**found}

    @property
    def key(self) -> str:
        """A text that tells it from others."""
        return ", ".join(f"{path or 'all'}: {device}" for path, device in self.places)

    def __str__(self) -> str:
        return " + ".join(device for device, _ in self.shares)


def cut_as(name: str, model: nn.Module, asked: Mapping[str, object], dtype: torch.dtype) -> Cut | str:
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
    if bare := [path for path, _ in owned if _longest(path, places) not in places]:
        more = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        raise ConfigError(
            f"device_map: {name} says no device for {', '.join(p or 'the model itself' for p in bare[:_SHOWN])}{more}. "
            f"Add them, or a device for all that is not named: {{'': {next(iter(places.values()), 'cuda:0')!r}}}."
        )
    at: dict[int, tuple[str, str]] = {}
    for path, module in owned:
        for tensor in own(module):
            before, device = at.setdefault(id(tensor), (path, places[_longest(path, places)]))
            if (here := places[_longest(path, places)]) != device:
                raise ConfigError(
                    f"device_map: {name}'s {before} and {path} share one tensor, and came as {device} and {here}. "
                    "Give them one device."
                )
    return _cut(model, places, dtype)


def cut_evenly(model: nn.Module, room: Mapping[str, int], dtype: torch.dtype) -> Cut | str | None:
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
    return _cut(model, best, dtype)


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


def _cut(model: nn.Module, places: Mapping[str, str], dtype: torch.dtype) -> Cut | str:
    held: dict[str, list[Tensor]] = {}
    for path, module in model.named_modules():
        if tensors := list(own(module)):
            held.setdefault(places[_longest(path, places)], []).extend(tensors)
    if len(held) < 2:
        return next(iter(held), places.get("", "cpu"))
    return Cut(tuple(places.items()), tuple((device, _bytes(tensors, dtype)) for device, tensors in held.items()))


def _longest(name: str, places: Mapping[str, object]) -> str:
    while name and name not in places:
        name = name.rpartition(".")[0]
    return name


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
