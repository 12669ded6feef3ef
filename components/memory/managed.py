"""The memory of a manager: it loads components by handle, leases them, and lets others leave when there is no room."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

from ...graph.errors import ConfigError, LoadError
from ...graph.lender import Waits
from ..catalog import Catalog
from ..device_map import DeviceMap
from ..handle import Added, Derived, Handle
from ..spec import ComponentSpec
from .budget import Budget
from .devices import canonical_device
from .entries import derived_entry, entry_of_files, estimate_of_derived
from .entry import Entry
from .estimate import Estimate, estimate
from .leases import Lease, Leases
from .mover import Mover
from .offload import NO_OFFLOAD, Offload, refuse_quantized_offload, refuse_split_offload
from .policy import Move, OutOfBudget, eviction_order, moves_to_fit_all
from .pool import ComponentPool
from .summary import Held, row_of, shortage_of, shortage_of_leases
from .tensors import device_of

_MOST_DERIVED = 8  # of one component
LOADING_LOCK = threading.RLock()
"""Held while a component is loaded or moved: one for the process, not one for each manager.

Loaders (ours and those of transformers) change global state of torch while they run, and two at once would see each
other's. Reentrant, since a component may load a part of itself. No thread waits for a lease under it, or for it under
another lock of a manager.
"""


class Kept(NamedTuple):
    """How one component is kept."""

    device: str
    dtype: str
    device_map: DeviceMap | None
    offload: Offload


class Settings(NamedTuple):
    """How a manager keeps components: those that it has, by key, and those that are added later, by rules."""

    components: Mapping[str, Kept]
    rules: Sequence[tuple[Callable[[str], bool], Offload]]


class ManagedMemory:
    """The entries of a manager's handles, their leases, and the pool that loads and moves them.

    catalog: lists a handle that is used, even if it was removed before.
    """

    def __init__(self, budget: Budget, mover: Mover, catalog: Catalog) -> None:
        self.budget = budget
        self._mover, self._catalog = mover, catalog
        self.leases: Leases[Handle] = Leases(self._shortage, self._lease_ended)
        self._pool = ComponentPool(budget, mover, self._lease_counts, self.leases.lock)
        self.inventory = self._pool.inventory
        self._rules: list[tuple[Callable[[str], bool], Offload]] = []
        self._received: Mapping[str, Kept] = {}
        self._lock = threading.Lock()  # guards rules and new entries; never held during loading or waiting

    # ------------------------------------------------------------------------------------------ entries
    def loaded(self) -> Mapping[str, Any]:  # objects
        """The loaded components by key: each as `load` returns it, or plain if it must be moved before use."""
        objects = {key: (e.usable, e.component) for key, e in self.inventory.entries.copy().items()}
        return {key: part if usable is None else usable for key, (usable, part) in objects.items() if part is not None}

    def entry(self, handle: Handle) -> Entry:
        """The entry of a handle, made if there is none."""
        entries = self.inventory.entries
        if (entry := entries.get(handle.key) or self.inventory.removed.get(handle.key)) is not None:
            if entry.read is not None and entry.component is None:
                self._read_with(entry, handle)  # its spec may have another access than the handle that failed
            return entry
        if isinstance(handle, Added):  # its spec may have a config, and no file has its weights
            raise LoadError(f"{handle.name} was removed from its manager. Add it again: manager.add(name, object).")
        if isinstance(handle, Derived):
            made = derived_entry(handle, self.entry(handle.base))
        else:
            made = entry_of_files(handle, self.check_rule(handle))
        self._catalog.add(handle)
        self._read_with(made, handle)
        with self._lock:
            if (kept := self._received.get(handle.key)) is not None:
                made.device, made.dtype, made.device_map, made.offload = kept
            return entries.setdefault(handle.key, made)

    def check_rule(self, handle: Handle) -> Offload:
        """How a component is kept, by its name. ConfigError if it cannot be kept so."""
        rule = self._rule(handle.name)
        refuse_split_offload(handle.name, handle.device_map, rule)
        if rule.needs_view and handle.is_quantized:
            refuse_quantized_offload(handle.name, rule)
        return rule

    def _read_with(self, entry: Entry, handle: Handle) -> None:
        """Let an entry read its files by the spec of this handle, or compute its component."""
        if isinstance(handle, Derived):
            entry.read = lambda device: self._mover.make(handle.make, device)
            entry.make_estimate = lambda _: estimate_of_derived(handle, entry.dtype) if self.budget else None
        else:
            entry.read = lambda device: self._mover.read(handle.spec, entry.dtype, device)
            entry.make_estimate = lambda offload: self._estimate(handle.spec, entry.dtype, offload)

    def add(self, handle: Added, component: Any) -> None:  # any object
        """Make the entry of an object that was made by hand."""
        entry = Entry(
            handle.key, handle.name, canonical_device(handle.device), handle.dtype, None, self._rule(handle.name)
        )
        entry.component, entry.parts, entry.current = component, self._mover.parts(component), device_of(component)
        self.inventory.entries[handle.key] = entry

    def make_room_for(self, handle: Added) -> None:
        """Move or drop others until an added object fits. If it cannot fit, the next load raises the error."""
        with LOADING_LOCK, suppress(OutOfBudget):
            if (entry := self.inventory.entries.get(handle.key)) is not None:
                self._pool.make_room(entry.residency(leased=True))

    def added_key(self, component: Any) -> str | None:  # any object
        """The key of an object that was added by hand; None if it was not."""
        entries = self.inventory.entries.copy()
        return next((k for k, entry in entries.items() if entry.read is None and entry.component is component), None)

    def _rule(self, name: str) -> Offload:
        return next((rule for matches, rule in reversed(self._rules) if matches(name)), NO_OFFLOAD)

    def _estimate(self, spec: ComponentSpec, dtype: str, offload: Offload) -> Estimate | None:
        return estimate(spec, dtype, offload) if self.budget else None

    # ------------------------------------------------------------------------------------------ loading
    def load(self, handle: Handle) -> Any:  # the object
        """The object of a handle, or a view of it; loaded and moved to its device if it is not there.

        Raises:
            LoadError: it cannot be read, or there is no room for it.
        """
        entry = self.inventory.entries.get(handle.key)
        if entry is not None and not entry.streaming_bytes and (usable := entry.ready) is not None and entry.is_whole:
            self._pool.mark_used(entry)
            return usable
        by_user = not self.leases.held_by_this_thread(handle)  # a run has leased what it loads
        needed = [handle.base, handle] if isinstance(handle, Derived) else [handle]
        with self.lease(needed, handle.name) if by_user and self.budget else nullcontext(), LOADING_LOCK:
            if by_user:
                self._restore(handle)
            entry = self.entry(handle)
            if entry.component is None:
                handle.ready()
            try:
                loaded = self._pool.load(entry)
            except OutOfBudget as error:
                raise LoadError(shortage_of(error)) from None
            if entry.base:
                leased = self._lease_counts()
                self.remove(one.key for one in self.inventory.derived_from([entry.base])[_MOST_DERIVED:]
                            if one.key not in leased)  # fmt: skip
            return loaded

    def lease(
        self, handles: Sequence[Handle], owner: str, stop: threading.Event | None = None, waits: Waits = None
    ) -> Lease[Handle]:
        """A lease of these components, as soon as they fit beside the leases of others; see
        `ComponentsManager.lease`."""
        for handle in handles:
            _ = self.entry(handle).estimate  # reads headers, before anybody waits for it under a lock
        lease = self.leases.acquire(handles, owner, stop, waits)
        for handle in handles:
            self._restore(handle)
        return lease

    def wake(self) -> None:
        """Have threads that wait for a lease check again."""
        self.leases.wake()

    def _restore(self, handle: Handle) -> None:
        """Keep a component that was removed while it was leased: it was asked for again."""
        if handle.key in self.inventory.removed:
            self._pool.restore(handle.key)
            self._catalog.add(handle)

    def _lease_counts(self) -> Mapping[str, int]:
        return Counter(handle.key for lease in self.leases.active() for handle in lease.components)

    def _shortage(self, leases: Sequence[Sequence[Handle]]) -> str:
        """The error text if these leases do not fit in memory together; "" if they do."""
        if not self.budget:
            return ""
        entries = [[self.entry(handle) for handle in lease] for lease in leases]
        return shortage_of_leases(entries, self.inventory, self.budget)

    def _lease_ended(self, lease: Lease[Handle]) -> None:
        self._pool.leases_ended({handle.key for handle in lease.components} - self._lease_counts().keys())

    # ------------------------------------------------------------------------------------------ moves
    def eviction_order(self) -> tuple[Move, ...]:
        """The order in which components would leave each device that has a budget."""
        residents = self.inventory.residents()
        devices = dict.fromkeys(d for r in residents for d in r.devices if self.budget(d) is not None)
        moves = [move for device in devices for move in eviction_order(device, residents, self.budget)]
        return tuple({move.key: move for move in reversed(moves)}.values())[::-1]  # one that is split has one move

    def plan(self, handles: Iterable[Handle]) -> tuple[Move, ...]:
        """The moves that would let these components work together, in order. LoadError if they can never fit."""
        residents = self.inventory.residents()
        wanted = [self.entry(handle).residency_when_ready() for handle in handles]
        try:
            return moves_to_fit_all(wanted, residents, self.budget)
        except OutOfBudget as error:
            raise LoadError(shortage_of(error)) from None

    def add_rule(self, matches: Callable[[str], bool], rule: Offload) -> None:
        """Set how components are kept that are added from now on and whose name matches."""
        with self._lock:
            self._rules.append((matches, rule))

    def set_offload(self, handles: Iterable[Handle], rule: Offload) -> None:
        """Set how these components are kept. ConfigError if one is in use."""
        with LOADING_LOCK:
            for handle in handles:
                entry = self.inventory.entries.get(handle.key)
                if entry is not None and not entry.base and entry.offload != rule:
                    if handle.is_quantized:
                        refuse_quantized_offload(handle.name, rule)
                    self._change(entry, offload=rule)

    def change(self, handles: Iterable[Handle], *, device: str, dtype: str) -> None:
        """Use components on another device or in another dtype from now on; "" leaves it. ConfigError if in use."""
        with LOADING_LOCK:
            for entry in [self.entry(handle) for handle in handles if not isinstance(handle, Derived)]:
                self._change(entry, device=device, dtype=dtype)

    def _change(self, entry: Entry, **changes: Any) -> None:  # keywords of ComponentPool.change
        with self.leases.lock:
            leases = (lease for lease in self.leases.active() if any(h.key == entry.key for h in lease.components))
            if owners := dict.fromkeys(lease.owner for lease in leases):
                raise ConfigError(f"{entry.name} is in use by {', '.join(owners)}. Change it when that run has ended.")
            self._pool.change(entry, **changes)
        self.remove(one.key for one in self.inventory.derived_from([entry.key]))

    def free(self, handles: Iterable[Handle]) -> int:
        """Drop these components if they are not leased; move to the CPU those that cannot be read again.

        Gives the bytes freed.
        """
        with LOADING_LOCK:
            before = self.inventory.bytes
            self._pool.free([handle.key for handle in handles])
            freed = before - self.inventory.bytes
        self.leases.wake()
        return freed

    def remove(self, keys: Iterable[str]) -> bool:
        """Remove entries and what is computed from them: now, or when their last lease ends. Whether one of them was
        loaded."""
        with LOADING_LOCK:
            keys = list(keys)
            keys += [entry.key for entry in self.inventory.derived_from(keys)]
            for key in keys:
                self._catalog.remove(key)
            was_loaded = [self._pool.remove(key) for key in keys]
        self.leases.wake()
        return any(was_loaded)

    def settings(self) -> Settings:
        """How components are kept, as values, for a manager in another process."""
        entries = self.inventory.entries.copy()
        of_files = {key: entry for key, entry in entries.items() if entry.read is not None and not entry.base}
        kept = {k: Kept(e.device, e.dtype, e.device_map, e.offload) for k, e in of_files.items()}
        return Settings({**self._received, **kept}, tuple(self._rules))

    def use(self, settings: Settings) -> None:
        """Keep components as the manager of another process does. Called before any is added."""
        self._received, self._rules = settings.components, [*settings.rules]

    # ------------------------------------------------------------------------------------------ summary
    def rows(self, handles: Iterable[Handle]) -> list[Held]:
        """A row for each of these components."""
        leaves = {move.key: place for place, move in enumerate(self.eviction_order(), 1)}
        users: dict[str, dict[str, None]] = {}
        for lease in self.leases.active():
            for handle in lease.components:
                users.setdefault(handle.key, {})[lease.owner] = None
        entries = self.inventory.entries
        return [row_of(h, entries.get(h.key), tuple(users.get(h.key, ())), leaves.get(h.key, 0)) for h in handles]

    @property
    def bytes(self) -> int:
        """Bytes of all loaded components on all devices, each byte once."""
        return self.inventory.bytes

    @property
    def unfreed_bytes(self) -> int:
        """Bytes of removed and dropped components that are still in memory."""
        return self.inventory.unfreed_bytes
