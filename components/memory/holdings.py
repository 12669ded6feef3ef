"""What a manager holds: each component, where it lies, and how it is brought and let go."""

import gc
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...graph.errors import ConfigError
from .away import Stream
from .moving import Mover
from .offload import AS_A_WHOLE, Offload, offloaded, store, window
from .policy import CPU, DISK, Fact, Limit, Move, room_for
from .sizes import Parts, tensors_of, total


@dataclass(eq=False)
class Entry:
    """One component: loaded or not, and everything that is known of it."""

    key: str
    name: str
    device: str
    """Where it is used."""
    dtype: str
    read: Callable[[str], Any] | None
    """Reads it from its files to a device; None for an object that was added by hand."""
    offload: Offload = AS_A_WHOLE
    expected: int = 0
    """The bytes it will take, or took when it was last here."""
    component: Any = None
    given: Any = None
    """What is handed out: the component, or a view of it; None where it is not ready for use."""
    where: str = DISK
    parts: Parts = field(default_factory=dict[Any, int])
    used: int = 0
    seen: float = 0.0
    stream: Stream | None = None
    window: int = 0

    @property
    def home(self) -> str:
        """Where it lies while it is in use."""
        return CPU if self.offload.streams else self.device

    @property
    def ready(self) -> bool:
        """Whether it can be used as it stands."""
        return self.given is not None and self.where == self.home

    @property
    def wanted(self) -> Fact:
        """What it will be once it is ready."""
        parts: Parts = self.parts if self.component is not None else {self.key: self.expected}
        return Fact(self.key, self.name, self.home, parts, leased=True, readable=self.read is not None)

    def fact(self, leased: bool) -> Fact:
        return Fact(self.key, self.name, self.where, self.parts, self.used, leased, self.read is not None)


def _at_work(entry: Entry, times: int) -> Fact:
    """What a streamed component has on its device, once for each that holds it."""
    parts: Parts = {(entry.key, i): entry.window for i in range(times)}
    return Fact(f"{entry.key} at work", f"{entry.name} at work", entry.device, parts, leased=True)


class Ghost:
    """What was let go and is not gone, since somebody else holds it: it takes memory as long as that is so."""

    def __init__(self, entry: Entry, key: str) -> None:
        self.key, self.name, self.where, self.parts = key, entry.name, entry.where, entry.parts
        self.component = weakref.ref(entry.component)
        self._tensors = [weakref.ref(tensor) for tensor in tensors_of(entry.component)]

    @property
    def there(self) -> bool:
        return any(tensor() is not None for tensor in self._tensors)

    def fact(self) -> Fact:
        return Fact(f"ghost {id(self)}", self.name, self.where, self.parts, stuck=True)


class Holdings:
    """The entries of a manager, and their moves. Its methods that move need the loading lock; none waits.

    `leased` gives the keys that are leased, and for each how often.
    """

    def __init__(self, limit: Limit, mover: Mover, leased: Callable[[], Mapping[str, int]]) -> None:
        self.entries: dict[str, Entry] = {}
        self._limit, self._mover, self._leased = limit, mover, leased
        self._ghosts: list[Ghost] = []
        self._clock = 0

    # ------------------------------------------------------------------------------------------ facts
    def facts(self) -> list[Fact]:
        """What the policy decides by."""
        leased = self._leased()
        found = [entry.fact(entry.key in leased) for entry in list(self.entries.values()) if entry.parts]
        working = [entry for key in leased if (entry := self.entries.get(key)) is not None and entry.window]
        found += [_at_work(entry, leased[entry.key]) for entry in working]
        return found + [ghost.fact() for ghost in self._ghosts_there()]

    def _ghosts_there(self) -> list[Ghost]:
        return [ghost for ghost in list(self._ghosts) if ghost.there]

    def demand(self, leases: Iterable[Iterable[Entry]]) -> Mapping[str, list[Parts]]:
        """What these leases together take, by device; what nobody can let go is in it."""
        found: dict[str, list[Parts]] = {}
        for number, lease in enumerate(leases):
            for entry in lease:
                found.setdefault(entry.home, []).append(self._parts(entry))
                if entry.window:  # not known before it was loaded once
                    found.setdefault(entry.device, []).append({(entry.key, number): entry.window})
        for ghost in self._ghosts_there():
            found.setdefault(ghost.where, []).append(ghost.parts)
        return found

    def _parts(self, entry: Entry) -> Parts:
        if entry.component is None and (ghost := self._ghost_of(entry.key)) is not None:
            return ghost.parts
        return entry.wanted.parts

    def _ghost_of(self, key: str) -> Ghost | None:
        """What was let go under this key, and can be taken up again."""
        return next((g for g in self._ghosts_there() if g.key == key and g.component() is not None), None)

    def others(self, device: str, keys: Collection[str]) -> int:
        """Bytes on a device that nobody here can let go, but for these keys."""
        return total(ghost.parts for ghost in self._ghosts_there() if ghost.where == device and ghost.key not in keys)

    @property
    def bytes(self) -> int:
        """Memory of all that is held, each byte once."""
        return total(self._mover.parts(entry.component) for entry in list(self.entries.values()))

    @property
    def elsewhere(self) -> int:
        """Memory of what was let go and others still hold."""
        return total(ghost.parts for ghost in self._ghosts_there())

    # ------------------------------------------------------------------------------------------ moves
    def touch(self, entry: Entry) -> None:
        self._clock += 1
        entry.used, entry.seen = self._clock, time.time()

    def bring(self, entry: Entry) -> Any:  # the component, or its view
        """Have a component ready for use, with room made for it. Raises `Shortage`, or LoadError from reading."""
        self.touch(entry)
        if not entry.ready:
            self._bring(entry)
        if entry.window:
            self.make_room(_at_work(entry, max(self._leased().get(entry.key, 0), 1)))
        return entry.given

    def _bring(self, entry: Entry) -> None:
        if entry.component is None:
            self._take_up(entry)
        self.make_room(entry.wanted)
        if entry.component is None:
            assert entry.read is not None
            component = entry.read(entry.home)
            if isinstance(component, nn.Module):
                store(component, entry.offload, entry.device)
            entry.component = component
        elif entry.where != entry.home:
            self._move(entry, entry.home)
        if entry.given is None:
            entry.given, entry.stream = entry.component, None
            if isinstance(entry.component, nn.Module) and not entry.offload.plain:
                entry.stream = self._mover.stream(entry.device, entry.offload.blocks, entry.offload.prefetch)
                entry.given = offloaded(entry.component, entry.offload, entry.stream, entry.dtype)
                entry.window = window(entry.component, entry.offload, entry.dtype) if entry.offload.streams else 0
        entry.where, entry.parts = entry.home, self._mover.parts(entry.component)
        entry.expected = total([entry.parts])
        self.make_room(entry.wanted)  # for what no file foretold

    def _take_up(self, entry: Entry) -> None:
        """Take an object that was let go, and that somebody else still has, rather than read it twice."""
        if (ghost := self._ghost_of(entry.key)) is not None and (component := ghost.component()) is not None:
            entry.component, entry.where, entry.parts = component, ghost.where, ghost.parts
            self._ghosts.remove(ghost)

    def make_room(self, wanted: Fact) -> None:
        """Let others go until this fits. Raises `Shortage`."""
        while moves := room_for(wanted, self.facts(), self._limit):
            self.apply(moves)

    def apply(self, moves: Sequence[Move]) -> None:
        """Do what was decided."""
        for move in moves:
            if (entry := self.entries.get(move.key)) is not None:
                self.let_go(entry) if move.target == DISK else self._move(entry, move.target)

    def _move(self, entry: Entry, device: str) -> None:
        self._mover.move(entry.component, device)
        entry.where, entry.parts = device, self._mover.parts(entry.component)

    def let_go(self, entry: Entry, *, forget: bool = False) -> None:
        """Drop a component. What others still hold is counted until they do not, and taken up if asked for again.

        `forget` drops it for good: an object that was added by hand is then its owner's affair.
        """
        if entry.component is None:
            return
        ghost = Ghost(entry, "" if forget else entry.key) if isinstance(entry.component, nn.Module) else None
        entry.component = entry.given = entry.stream = None
        entry.where, entry.parts, entry.window = DISK, {}, 0
        if ghost is not None and ghost.there:
            gc.collect()  # a model may hold itself in a circle
        self._ghosts = self._ghosts_there()
        if ghost is not None and ghost.there and not (forget and entry.read is None):
            self._ghosts.append(ghost)

    def remove(self, key: str) -> bool:
        """Forget an entry. Whether it was loaded."""
        entry = self.entries.pop(key, None)
        if entry is None or entry.component is None:
            return False
        self.let_go(entry, forget=True)
        return True

    def free(self, keys: Iterable[str]) -> None:
        """Let these go: to disk, or to the CPU what cannot be read again."""
        for entry in [self.entries[key] for key in keys if key in self.entries]:
            if entry.read is not None:
                self.let_go(entry)
            elif entry.component is not None and entry.where != CPU:
                self._move(entry, CPU)

    def change(self, entry: Entry, *, offload: Offload | None = None, device: str = "", dtype: str = "") -> None:
        """Have an entry used otherwise from its next use on."""
        if entry.read is None and offload is not None and offload.storage:
            raise ConfigError(
                f"{entry.name} was added by hand, so its weights are not rewritten. Give a ComponentSpec of its files."
            )
        dtype = dtype or entry.dtype
        again = dtype != entry.dtype or (offload is not None and offload != entry.offload)
        entry.offload, entry.device, entry.dtype = offload or entry.offload, device or entry.device, dtype
        if entry.read is None:
            if again and isinstance(entry.component, nn.Module):
                entry.component.to(getattr(torch, dtype))
            entry.given, entry.stream, entry.window = None, None, 0
        elif again:
            self.let_go(entry, forget=True)
