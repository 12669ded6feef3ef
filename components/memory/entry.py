"""The manager's entry of one component: how to load it, where it is, and the memory that it takes."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..device_map import DeviceMap, Parts
from ..storage.mapped import MappedFile
from .estimate import Estimate
from .offload import NO_OFFLOAD, Offload
from .offloaded import WeightStream
from .policy import CPU, DISK, Residency
from .tensors import tensors_of, total_bytes

LOADING_PART = "loading"
"""The part for memory that loading takes beside the weights. All components share it: one is loaded after another."""


@dataclass(eq=False)
class Entry:
    """One component of a manager, loaded or not."""

    key: str
    name: str
    device: str
    """Where it is used; the main device if a device map splits it."""
    dtype: str
    read: Callable[[str | DeviceMap], Any] | None
    """Reads or computes it on a device; None for an object that was added by hand."""
    offload: Offload = NO_OFFLOAD
    make_estimate: Callable[[Offload], Estimate | None] = lambda _: None
    """Estimates its memory by its files; gives None if no budget needs it."""
    known_estimate: Estimate | None = None
    """The estimate by its files, or the measure of its last load."""
    component: Any = None
    usable: Any = None
    """The result of `load`: the component or a view of it; None if it must be moved or wrapped before use."""
    current: str = DISK
    """Where it is now: "disk", a device, or the text of its device map."""
    in_transit: bool = False
    """Whether it is being moved, or a move has failed half way."""
    parts: Parts = field(default_factory=dict[Any, int])
    files: tuple[MappedFile, ...] = ()
    """The files from which its weights are mapped."""
    last_used: int = 0
    """The manager's count of uses at its last one."""
    last_used_at: float = 0.0
    """Seconds since 1970, 0 for never."""
    stream: WeightStream | None = None
    base: str = ""
    """The key of the component that it is computed from; "" if it is not computed."""
    device_map: DeviceMap | None = None

    @property
    def numbers(self) -> str:
        """The dtype, device and storage, since they change its results."""
        return f"{self.dtype} {self.device_map or self.device} {self.offload.storage}"

    @property
    def target(self) -> str | DeviceMap:
        """Where it must be for use."""
        return CPU if self.offload.streams else self.device_map or self.device

    @property
    def is_in_place(self) -> bool:
        """Whether it is where it must be for use."""
        return self.current == str(self.target) and not self.in_transit

    @property
    def ready(self) -> Any:  # the component or its view, or None
        """The result of `load`, if nothing has to be done before; else None."""
        usable = self.usable  # read once: another thread may clear it
        return usable if self.is_in_place else None

    @property
    def is_whole(self) -> bool:
        """Whether the files from which its weights are mapped are as they were when it was read."""
        return all(file.unchanged for file in self.files)

    @property
    def estimate(self) -> Estimate:
        """The memory that it will take: an estimate by its files, or the measure of its last load."""
        if self.known_estimate is None:
            self.known_estimate = self.make_estimate(self.offload)
        return self.known_estimate or Estimate()

    @property
    def narrows(self) -> bool:
        """Whether its weights are converted to a narrower dtype after reading, which is done on the CPU."""
        return self.offload.storage is not None

    @property
    def streaming_bytes(self) -> int:
        """The bytes on its device while it runs, if it is streamed; else 0."""
        return self.estimate.streaming_bytes if self.offload.streams else 0

    @property
    def loading_bytes(self) -> Mapping[str, int]:
        """The bytes that loading takes beside the weights, by device."""
        estimate = self.estimate
        if self.narrows:
            in_place = str(self.target) == CPU
            return {CPU: estimate.loading_bytes if in_place else estimate.bytes + estimate.loading_bytes}
        return {next(iter(self.parts_when_ready)): estimate.loading_bytes}

    @property
    def parts_when_ready(self) -> Mapping[str, Parts]:
        """The memory that it takes on each device once it is ready."""
        target = str(self.target)
        if self.device_map is not None and target == str(self.device_map):
            if self.component is not None and self.current == target:
                return self.device_map.parts_by_device(self.parts)
            size = self.estimate.bytes if self.component is None else total_bytes([self.parts])
            return self.device_map.expected_parts(self.key, size)
        return {target: {self.key: self.estimate.bytes} if self.component is None else self.parts}

    @property
    def parts_now(self) -> Mapping[str, Parts]:
        """The memory that it takes on each device now."""
        if self.device_map is not None and self.current == str(self.device_map):
            return self.device_map.parts_by_device(self.parts)
        return {self.current: self.parts}

    def residency(self, leased: bool) -> Residency:
        """Where it is now, for the policy."""
        return residency(self, self.parts_now, last_used=self.last_used, leased=leased)

    def residency_when_ready(self) -> Residency:
        """Where it will be once it is ready."""
        return residency(self, self.parts_when_ready, leased=True)

    def residency_while_loading(self) -> Residency:
        """Its memory on each device once it is ready, with the memory that loading takes beside it."""
        parts = {**self.parts_when_ready}
        for device, size in self.loading_bytes.items():
            parts[device] = {**parts.get(device, {}), LOADING_PART: size}
        return residency(self, parts, leased=True)

    def streaming_residency(self, leases: int) -> Residency:
        """The memory of a streamed component on its device while it runs, once for each lease."""
        parts: Parts = {(self.key, i): self.streaming_bytes for i in range(leases)}
        return Residency(f"{self.key} at work", f"{self.name} at work", self.device, parts, leased=True)


def residency(entry: Entry, parts: Mapping[str, Parts], *, last_used: int = 0, leased: bool) -> Residency:
    """An entry as the policy sees it, with this memory on each device; the first device is the main one."""
    (device, own), *others = parts.items()
    reloadable = entry.read is not None
    return Residency(entry.key, entry.name, device, own, last_used, leased, reloadable, other_parts=dict(others))


class Unfreed:
    """A dropped component that is still in memory, because something outside the manager refers to it.

    key: the entry's key, by which the manager can take the object back; "" if it must not.
    """

    def __init__(self, entry: Entry, key: str) -> None:
        self.key, self.name, self.current, self.parts = key, entry.name, entry.current, entry.parts
        self.parts_now = entry.parts_now
        self.component = weakref.ref(entry.component)
        self._tensors = [weakref.ref(tensor) for tensor in tensors_of(entry.component)]

    @property
    def exists(self) -> bool:
        """Whether one of its tensors is still in memory."""
        return any(tensor() is not None for tensor in self._tensors)

    def residency(self) -> Residency:
        """Where it is, for the policy: it cannot leave."""
        (device, parts), *others = self.parts_now.items()
        return Residency(f"unfreed {id(self)}", self.name, device, parts, referenced=True, other_parts=dict(others))
