"""What a manager holds: each component, where it lies, and how it is brought and let go."""

import gc
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...graph.errors import ConfigError
from ..device_map import DeviceMap
from .away import Stream
from .elsewhere import spread
from .expected import Expected
from .moving import Mover
from .offload import AS_A_WHOLE, Offload, offloaded, refuse_cut, store, window
from .policy import CPU, DISK, Fact, Limit, Move, Shortage, room_for
from .sizes import Parts, tensors_of, total

LOADING = "loading"
"""What loading takes besides: one part for all, since one is loaded after another."""


@dataclass(eq=False)
class Entry:
    """One component: loaded or not, and everything that is known of it."""

    key: str
    name: str
    device: str
    """Where it is used."""
    dtype: str
    read: Callable[[str | DeviceMap], Any] | None
    """Reads it from its files to a device; None for an object that was added by hand."""
    offload: Offload = AS_A_WHOLE
    tell: Callable[[Offload], Expected | None] = lambda _: None
    """What it will take, by its files; None where no budget asks."""
    told: Expected | None = None
    """What that was, or what it took when it was last here."""
    component: Any = None
    given: Any = None
    """What is handed out: the component, or a view of it; None where it is not ready for use."""
    where: str = DISK
    going: bool = False
    """Whether it is on its way elsewhere, or a move failed half way."""
    parts: Parts = field(default_factory=dict[Any, int])
    used: int = 0
    seen: float = 0.0
    stream: Stream | None = None
    device_map: DeviceMap | None = None
    """Which of it lies where, if it is on several devices; `device` is then the cut's main one."""

    @property
    def place(self) -> str | DeviceMap:
        """Where it lies while it is in use."""
        return CPU if self.offload.streams else self.device_map or self.device

    @property
    def home(self) -> str:
        """The same by its name."""
        return str(self.place)

    @property
    def ready(self) -> Any:  # the component or its view, or None
        """What can be used as it stands, if it can."""
        given = self.given
        return given if self.where == self.home and not self.going else None

    @property
    def expected(self) -> Expected:
        """What it will take, by its files, or took when it was last here."""
        if self.told is None:
            self.told = self.tell(self.offload)
        return self.told or Expected()

    @property
    def wanted(self) -> Fact:
        """What it will be once it is ready."""
        return _fact(self.key, self.name, self.needs, leased=True, readable=self.read is not None)

    @property
    def narrows(self) -> bool:
        """Whether it is made narrower when it is read, which is done on the CPU."""
        return self.offload.storage is not None

    @property
    def window(self) -> int:
        """What it has on its device while it works, if it streams."""
        return self.expected.window if self.offload.streams else 0

    @property
    def loading(self) -> Fact:
        """What it will be, and what its loading takes besides."""
        needs = {**self.needs}
        for device, size in self.passing.items():
            needs[device] = {**needs.get(device, {}), LOADING: size}
        return _fact(self.key, self.name, needs, leased=True, readable=self.read is not None)

    @property
    def passing(self) -> Mapping[str, int]:
        """What its loading takes besides, by device."""
        told = self.expected
        if self.narrows:
            return {CPU: told.passing if self.home == CPU else told.bytes + told.passing}
        return {next(iter(self.needs)): told.passing}

    @property
    def needs(self) -> Mapping[str, Parts]:
        """What it takes on each device once it is ready."""
        if self.device_map is not None and self.home == str(self.device_map):
            if self.component is not None and self.where == self.home:
                return self.device_map.parts_by_device(self.parts)
            count = self.expected.bytes if self.component is None else total([self.parts])
            return self.device_map.expected_parts(self.key, count)
        return {self.home: {self.key: self.expected.bytes} if self.component is None else self.parts}

    @property
    def lies(self) -> Mapping[str, Parts]:
        """What of it lies on each device now."""
        cut = self.device_map is not None and self.where == str(self.device_map)
        return (
            self.device_map.parts_by_device(self.parts)
            if self.device_map is not None and cut
            else {self.where: self.parts}
        )

    def fact(self, leased: bool) -> Fact:
        return _fact(self.key, self.name, self.lies, self.used, leased, self.read is not None)


def _fact(key: str, name: str, lies: Mapping[str, Parts], *more: Any, **named: Any) -> Fact:  # Fact's other fields
    (where, parts), *beside = lies.items()
    return Fact(key, name, where, parts, *more, **named, beside=dict(beside))


def _at_work(entry: Entry, times: int) -> Fact:
    """What a streamed component has on its device, once for each that holds it."""
    parts: Parts = {(entry.key, i): entry.window for i in range(times)}
    return Fact(f"{entry.key} at work", f"{entry.name} at work", entry.device, parts, leased=True)


class Ghost:
    """What was let go and is not gone, since somebody else holds it: it takes memory as long as that is so."""

    def __init__(self, entry: Entry, key: str) -> None:
        self.key, self.name, self.where, self.parts = key, entry.name, entry.where, entry.parts
        self.lies = entry.lies
        self.component = weakref.ref(entry.component)
        self._tensors = [weakref.ref(tensor) for tensor in tensors_of(entry.component)]

    @property
    def there(self) -> bool:
        return any(tensor() is not None for tensor in self._tensors)

    def fact(self) -> Fact:
        return _fact(f"ghost {id(self)}", self.name, self.lies, stuck=True)


class Holdings:
    """The entries of a manager, and their moves. Its methods that move need the loading lock; none waits.

    `leased` gives the keys that are leased, and for each how often; while `still` is entered, that does not change.
    What is leased is never moved: whoever holds it may be computing with it.
    """

    def __init__(
        self, limit: Limit, mover: Mover, leased: Callable[[], Mapping[str, int]], still: AbstractContextManager[Any]
    ) -> None:
        self.entries: dict[str, Entry] = {}
        self.leaving: dict[str, Entry] = {}
        """What was removed and is leased yet: it goes when its last lease ends, or stays if it is asked for again."""
        self._limit, self._mover, self._leased, self._still = limit, mover, leased, still
        self._ghosts: list[Ghost] = []
        self._clock = 0

    # ------------------------------------------------------------------------------------------ facts
    def facts(self) -> list[Fact]:
        """What the policy decides by."""
        leased = self._leased()
        entries = [*self.entries.values(), *self.leaving.values()]
        found = [entry.fact(entry.key in leased) for entry in entries if entry.parts]
        working = [entry for entry in entries if entry.key in leased and entry.window]
        found += [_at_work(entry, leased[entry.key]) for entry in working]
        return found + [ghost.fact() for ghost in self._ghosts_there()]

    def _ghosts_there(self) -> list[Ghost]:
        return [ghost for ghost in list(self._ghosts) if ghost.there]

    def demand(self, leases: Iterable[Iterable[Entry]]) -> Mapping[str, list[Parts]]:
        """What these leases together take, by device; what nobody can let go is in it."""
        found: dict[str, list[Parts]] = {}
        passing: dict[str, int] = {}
        for number, lease in enumerate(leases):
            for entry in lease:
                for device, parts in self._needs(entry).items():
                    found.setdefault(device, []).append(parts)
                for device, size in self._passing(entry).items():  # one is loaded after another
                    passing[device] = max(passing.get(device, 0), size)
                if entry.window:
                    found.setdefault(entry.device, []).append({(entry.key, number): entry.window})
        for ghost in self._ghosts_there():
            for device, parts in ghost.lies.items():
                found.setdefault(device, []).append(parts)
        for device, size in passing.items():
            found.setdefault(device, []).append({LOADING: size})
        return found

    def _passing(self, entry: Entry) -> Mapping[str, int]:
        return entry.passing if entry.component is None and self._ghost_of(entry.key) is None else {}

    def _needs(self, entry: Entry) -> Mapping[str, Parts]:
        if entry.component is None and (ghost := self._ghost_of(entry.key)) is not None:
            return ghost.lies if ghost.where == entry.home else {entry.home: ghost.parts}
        return entry.needs

    def _ghost_of(self, key: str) -> Ghost | None:
        """What was let go under this key, and can be taken up again."""
        return next((g for g in self._ghosts_there() if g.key == key and g.component() is not None), None)

    def others(self, device: str, keys: Collection[str]) -> int:
        """Bytes on a device that nobody here can let go, but for these keys."""
        there = [ghost for ghost in self._ghosts_there() if ghost.key not in keys]
        return total(ghost.lies[device] for ghost in there if device in ghost.lies)

    @property
    def bytes(self) -> int:
        """Memory of all that is held, each byte once."""
        return total(self._mover.parts(entry.component) for entry in list(self.entries.values()))

    @property
    def elsewhere(self) -> int:
        """Memory of what was let go and others still hold."""
        leaving = [self._mover.parts(entry.component) for entry in list(self.leaving.values())]
        return total([*leaving, *(ghost.parts for ghost in self._ghosts_there())])

    # ------------------------------------------------------------------------------------------ moves
    def touch(self, entry: Entry) -> None:
        self._clock += 1
        entry.used, entry.seen = self._clock, time.time()

    def bring(self, entry: Entry) -> Any:  # the component, or its view
        """Have a component ready for use, with room made for it. Raises `Shortage`, or LoadError from reading."""
        self.touch(entry)
        if entry.ready is None:
            self._bring(entry)
        if entry.window:
            self.make_room(_at_work(entry, max(self._leased().get(entry.key, 0), 1)))
        return entry.given

    def _bring(self, entry: Entry) -> None:
        if entry.component is None:
            self._take_up(entry)
        self.make_room(entry.loading if entry.component is None else entry.wanted)
        if entry.component is None:
            assert entry.read is not None
            component = entry.read(CPU if entry.narrows else entry.place)
            if isinstance(component, nn.Module):
                store(component, entry.offload, entry.device)
                if entry.narrows and entry.home != CPU:
                    self._mover.move(component, entry.place)
            entry.component = component
        elif entry.going or entry.where != entry.home:
            self._move(entry, entry.place)
        if entry.given is None:
            entry.given, entry.stream = entry.component, None
            if isinstance(entry.component, nn.Module) and not entry.offload.plain:
                entry.stream = self._mover.stream(entry.device, entry.offload.blocks, entry.offload.prefetch)
                entry.given = offloaded(entry.component, entry.offload, entry.stream, entry.dtype)
            elif isinstance(entry.component, nn.Module) and entry.device_map is not None:
                entry.given = spread(entry.component, entry.device_map)
        entry.where, entry.parts = entry.home, self._mover.parts(entry.component)
        known = window(entry.component, entry.offload, entry.dtype) if entry.stream is not None else 0
        entry.told = entry.expected._replace(bytes=total([entry.parts]), window=known)
        try:
            self.make_room(entry.wanted)  # for what no file foretold
        except Shortage:
            self.let_go(entry)
            raise

    def _take_up(self, entry: Entry) -> None:
        """Take an object that was let go, and that somebody else still has, rather than read it twice."""
        if (ghost := self._ghost_of(entry.key)) is not None and (component := ghost.component()) is not None:
            entry.component, entry.where, entry.parts = component, ghost.where, ghost.parts
            with self._still:
                self._ghosts.remove(ghost)

    def make_room(self, wanted: Fact) -> None:
        """Let others go until this fits. Raises `Shortage`."""
        while moves := room_for(wanted, self.facts(), self._limit):
            self.apply(moves)

    def apply(self, moves: Sequence[Move]) -> None:
        """Do what was decided; nothing of it, where one was leased meanwhile."""
        for entry, target in self._withdrawn([(move.key, move.target) for move in moves]):
            self.let_go(entry) if target == DISK else self._move(entry, target)

    def _withdrawn(self, targets: Sequence[tuple[str, str]]) -> Sequence[tuple[Entry, str]]:
        """The entries that go elsewhere, which nobody gets as they are from now on; none, where one of them is leased.

        Those who lease one after this find that it is not ready, and wait for the loading lock.
        """
        with self._still:
            leased = self._leased()
            if any(key in leased for key, _ in targets):
                return ()
            found = [(self.entries[key], target) for key, target in targets if key in self.entries]
            for entry, _ in found:
                entry.going = True
            return found

    def _move(self, entry: Entry, device: str | DeviceMap) -> None:
        entry.going = True  # until all of it is there
        self._mover.move(entry.component, device)
        entry.where, entry.parts = str(device), self._mover.parts(entry.component)
        if entry.device_map is not None:
            entry.given = None  # its view lends tensors that lie elsewhere now
        entry.going = False

    def let_go(self, entry: Entry, *, forget: bool = False) -> None:
        """Drop a component. What others still hold is counted until they do not, and taken up if asked for again.

        `forget` drops it for good: an object that was added by hand is then its owner's affair.
        """
        if entry.component is None:
            return
        ghost = Ghost(entry, "" if forget else entry.key) if isinstance(entry.component, nn.Module) else None
        entry.component = entry.given = entry.stream = None
        entry.where, entry.parts, entry.going = DISK, {}, False
        if ghost is not None and ghost.there:
            gc.collect()  # a model may hold itself in a circle
        with self._still:
            self._ghosts = self._ghosts_there()
            if ghost is not None and ghost.there and not (forget and entry.read is None):
                self._ghosts.append(ghost)

    def remove(self, key: str) -> bool:
        """Forget an entry, or have it leave when its last lease ends. Whether it was loaded."""
        with self._still:
            if (entry := self.entries.pop(key, None)) is None:
                return False
            loaded = entry.component is not None
            if key in self._leased():
                self.leaving[key] = entry
                return loaded
        self.let_go(entry, forget=True)
        return loaded

    def stays(self, key: str) -> None:
        """What was removed has been asked for again."""
        with self._still:
            if (entry := self.leaving.pop(key, None)) is not None:
                self.entries[key] = entry

    def ended(self, keys: Iterable[str]) -> None:
        """The last leases of these have ended. Any thread calls it, and whatever it is at: it waits for nothing."""
        for key in keys:
            if (entry := self.entries.get(key)) is not None and entry.stream is not None:
                entry.stream.clear()
            if (entry := self.leaving.pop(key, None)) is not None:
                self.let_go(entry, forget=True)

    def free(self, keys: Iterable[str]) -> None:
        """Let these go as far as nobody has leased them: to disk, or to the CPU what cannot be read again."""
        for key in keys:
            entry = self.entries.get(key)
            if entry is None or entry.component is None or (entry.read is None and entry.where == CPU):
                continue
            self.apply([Move(key, entry.name, entry.where, CPU if entry.read is None else DISK, 0, "")])

    def change(self, entry: Entry, *, offload: Offload | None = None, device: str = "", dtype: str = "") -> None:
        """Have an entry used otherwise from its next use on."""
        if entry.read is None and offload is not None and offload.storage:
            raise ConfigError(
                f"{entry.name} was added by hand, so its weights are not rewritten. Give a ComponentSpec of its files."
            )
        if offload is not None:
            refuse_cut(entry.name, entry.device_map, offload)
        if device and entry.device_map is not None:
            self.let_go(entry, forget=True)  # at its next use it is read whole
            entry.device_map = None
        dtype = dtype or entry.dtype
        again = dtype != entry.dtype or (offload is not None and offload != entry.offload)
        entry.offload, entry.device, entry.dtype = offload or entry.offload, device or entry.device, dtype
        if entry.read is None:
            if again and isinstance(entry.component, nn.Module):
                entry.component.to(getattr(torch, dtype))
            entry.given = entry.stream = None
        elif again:
            self.let_go(entry, forget=True)
        if again:
            entry.told = None
