"""The components of a manager: how each is loaded, moved between devices, and dropped."""

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ...graph.errors import ConfigError
from ..device_map import DeviceMap
from ..storage.mapped import mapped_files
from .devices import note_slow_dtype
from .entry import Entry, Unfreed
from .inventory import Inventory
from .mover import Mover
from .multi_device import split_view
from .offload import Offload, prepare_weights, refuse_split_offload, streaming_bytes, view_for
from .policy import CPU, DISK, Limit, Move, OutOfBudget, Residency, moves_to_fit
from .tensors import total_bytes


class ComponentPool:
    """Loads, moves and drops the entries of an inventory. Call the methods that move under the loading lock.

    leased: gives the number of leases by key. lock: while it is held, no lease is granted and none ends. A leased
    component is never moved: its user may be computing with it. No method waits for a lease.
    """

    def __init__(
        self, limit: Limit, mover: Mover, leased: Callable[[], Mapping[str, int]], lock: AbstractContextManager[Any]
    ) -> None:
        self.inventory = Inventory(mover, leased)
        self._limit, self._mover, self._leased, self._lock = limit, mover, leased, lock
        self._clock = 0

    def mark_used(self, entry: Entry) -> None:
        """Make an entry the most recently used one."""
        self._clock += 1
        entry.last_used, entry.last_used_at = self._clock, time.time()

    def load(self, entry: Entry) -> Any:  # the component, or its view
        """Have a component ready for use, and make room for it.

        Raises:
            OutOfBudget: there is no room.
            LoadError: its files cannot be read.
        """
        self.mark_used(entry)
        self._check_files(entry)
        if entry.ready is None:
            self._load(entry)
        if entry.streaming_bytes:
            self.make_room(entry.streaming_residency(max(self._leased().get(entry.key, 0), 1)))
        return entry.usable

    def _check_files(self, entry: Entry) -> None:
        """Raise LoadError if a file changed from which its weights are mapped. The next load reads it anew."""
        if not entry.is_whole:
            files = entry.files
            for one in (entry, *self.inventory.derived_from([entry.key])):
                self.drop(one, for_good=True)
            for file in files:
                file.check()

    def _load(self, entry: Entry) -> None:
        if entry.component is None:
            self._take_back(entry)
        self.make_room(entry.residency_while_loading() if entry.component is None else entry.residency_when_ready())
        if entry.component is None:
            entry.component = self._read(entry)
        elif not entry.is_in_place:
            self._move(entry, entry.target)
        if entry.usable is None:
            self._make_usable(entry)
        self._set_place(entry, entry.target)
        streamed = streaming_bytes(entry.component, entry.offload, entry.dtype) if entry.stream is not None else 0
        entry.known_estimate = entry.estimate._replace(bytes=total_bytes([entry.parts]), streaming_bytes=streamed)
        try:
            self.make_room(entry.residency_when_ready())  # for what the estimate did not foresee
        except OutOfBudget:
            self.drop(entry)
            raise

    def _read(self, entry: Entry) -> Any:  # the component
        assert entry.read is not None
        component = entry.read(CPU if entry.narrows else entry.target)
        if isinstance(component, nn.Module):
            prepare_weights(component, entry.offload, entry.device)
            if entry.narrows and str(entry.target) != CPU:
                self._mover.move(component, entry.target)
        return component

    def _make_usable(self, entry: Entry) -> None:
        usable, stream = entry.component, None
        if isinstance(usable, nn.Module) and entry.offload.needs_view:
            stream = self._mover.stream(entry.device, entry.offload.blocks, entry.offload.prefetch)
            usable = view_for(usable, entry.offload, stream, entry.dtype)
        elif isinstance(usable, nn.Module) and entry.device_map is not None:
            usable = split_view(usable, entry.device_map)
        if isinstance(usable, nn.Module) and entry.device == CPU:
            note_slow_dtype(entry.dtype)
        entry.stream, entry.usable = stream, usable  # only now, for another thread uses it as soon as it is set

    def _take_back(self, entry: Entry) -> None:
        """Use a dropped object again that still exists, rather than read it twice."""
        one = self.inventory.unfreed_of(entry.key)
        if one is not None and (component := one.component()) is not None:
            entry.component, entry.current, entry.parts = component, one.current, one.parts
            entry.files = mapped_files(component)
            with self._lock:
                self.inventory.take_back(one)

    def make_room(self, wanted: Residency) -> None:
        """Move or drop others until this fits. Raises OutOfBudget if it cannot."""
        while moves := moves_to_fit(wanted, self.inventory.residents(), self._limit):
            self.apply(moves)

    def apply(self, moves: Sequence[Move]) -> None:
        """Make these moves; none of them, if one of the components was leased meanwhile."""
        for entry, target in self._begin_moves(moves):
            self.drop(entry) if target == DISK else self._move(entry, target)

    def _begin_moves(self, moves: Sequence[Move]) -> Sequence[tuple[Entry, str]]:
        """The entries to move, marked as in transit; none if one of them is leased.

        A thread that leases one of them after this finds that it is not ready, and waits for the loading lock.
        """
        with self._lock:
            leased, entries = self._leased(), self.inventory.entries
            if any(move.key in leased for move in moves):
                return ()
            found = [(entries[move.key], move.target) for move in moves if move.key in entries]
            for entry, _ in found:
                entry.in_transit = True
            return found

    def _move(self, entry: Entry, device: str | DeviceMap) -> None:
        entry.in_transit = True  # until all of it has arrived
        self._mover.move(entry.component, device)
        self._set_place(entry, device)
        if entry.device_map is not None:
            entry.usable = None  # its view holds tensors on the old devices
        entry.in_transit = False

    def _set_place(self, entry: Entry, device: str | DeviceMap) -> None:
        entry.current, entry.parts = str(device), self._mover.parts(entry.component)
        entry.files = mapped_files(entry.component)

    def drop(self, entry: Entry, *, for_good: bool = False) -> None:
        """Drop a component. While something else refers to it, it counts as in memory, and a later load takes it back.

        for_good: a later load does not take it back. An object that was added by hand then counts no more.
        """
        if entry.component is None:
            return
        one = Unfreed(entry, "" if for_good else entry.key) if isinstance(entry.component, nn.Module) else None
        entry.component = entry.usable = entry.stream = None
        entry.current, entry.parts, entry.files, entry.in_transit = DISK, {}, (), False
        if one is not None and one.exists:
            gc.collect()  # a model may be part of a reference cycle
        with self._lock:
            counts = one is not None and one.exists and not (for_good and entry.read is None)
            self.inventory.add_unfreed(one if counts else None)

    def remove(self, key: str) -> bool:
        """Remove an entry: now, or when its last lease ends. Whether it was loaded."""
        inventory = self.inventory
        with self._lock:
            if (entry := inventory.entries.pop(key, None)) is None:
                return False
            was_loaded = entry.component is not None
            if key in self._leased():
                inventory.removed[key] = entry
                return was_loaded
        self.drop(entry, for_good=True)
        return was_loaded

    def restore(self, key: str) -> None:
        """Keep an entry that was removed while it was leased."""
        with self._lock:
            if (entry := self.inventory.removed.pop(key, None)) is not None:
                self.inventory.entries[key] = entry

    def leases_ended(self, keys: Iterable[str]) -> None:
        """The last leases of these keys have ended. Any thread may call it at any time; it waits for nothing."""
        for key in keys:
            if (entry := self.inventory.entries.get(key)) is not None and entry.stream is not None:
                entry.stream.clear()
            if (entry := self.inventory.removed.pop(key, None)) is not None:
                self.drop(entry, for_good=True)

    def free(self, keys: Iterable[str]) -> None:
        """Drop these components if they are not leased. One that cannot be read again moves to the CPU."""
        for key in keys:
            entry = self.inventory.entries.get(key)
            if entry is None or entry.component is None or (entry.read is None and entry.current == CPU):
                continue
            self.apply([Move(key, entry.name, entry.current, CPU if entry.read is None else DISK, 0, "")])

    def change(self, entry: Entry, *, offload: Offload | None = None, device: str = "", dtype: str = "") -> None:
        """Change how an entry is kept, where it is used, or its dtype, from its next use on.

        Raises:
            ConfigError: a narrower storage for an object that was added by hand; offload of a split component.
        """
        if entry.read is None and offload is not None and offload.storage:
            raise ConfigError(
                f"{entry.name} was added by hand, so its weights cannot be stored in another dtype. Use a "
                "ComponentSpec of its files."
            )
        if offload is not None:
            refuse_split_offload(entry.name, entry.device_map, offload)
        if device and entry.device_map is not None:
            self.drop(entry, for_good=True)  # at its next use it is read to one device
            entry.device_map = None
        dtype = dtype or entry.dtype
        is_outdated = dtype != entry.dtype or (offload is not None and offload != entry.offload)
        entry.offload, entry.device, entry.dtype = offload or entry.offload, device or entry.device, dtype
        if entry.read is None:
            if is_outdated and isinstance(entry.component, nn.Module):
                entry.component.to(getattr(torch, dtype))
            entry.usable = entry.stream = None
        elif is_outdated:
            self.drop(entry, for_good=True)
        if is_outdated:
            entry.known_estimate = None
