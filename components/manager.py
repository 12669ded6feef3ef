"""Who loads components, shares them, and says what is held. What stays in memory is decided in memory/."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import torch

from ..graph.errors import ConfigError, LoadError
from ..registry import did_you_mean
from .device_map import DeviceMap
from .handle import Added as Added
from .handle import Handle as Handle
from .handle import name_of, spec_of
from .loading.component import load_problems
from .memory.expected import Expected, expected
from .memory.holdings import Entry, Holdings
from .memory.leases import Lease, Leases
from .memory.limits import Limits, account
from .memory.moving import Mover
from .memory.offload import AS_A_WHOLE, By, Offload, refuse_cut
from .memory.patterns import matcher
from .memory.policy import Move, Shortage, order, plan_for
from .memory.sizes import device_of, show_size
from .memory.table import Held as Held
from .memory.table import lack_text, render, row, short_text
from .spec import ComponentSpec, dtype_name

# One for the process, not for a manager: loaders (ours and those of transformers) change torch's global state for a
# while, and two at once would see each other's. Reentrant, since a component may load a part of itself. Weights are
# moved under it too. Nobody waits for a lease under it, or for it under a manager's other locks.
_LOADING = threading.RLock()


class ComponentsManager:
    """Loads components at their first use, one object for equal specs, and keeps them within a memory budget. Safe to
    use from many threads.

    A spec without a dtype is loaded in the manager's, float32, whatever the files hold: half precision is
    slow on a CPU.

    `budget` is for weights: bytes or a text ("8GB") for the manager's device, or one for each of several devices
    (`{"cuda": "8GB", "cpu": "24GB"}`). What a run needs at once is leased to it, and stays until it is given back; for
    the rest see `memory/policy.py`. Runs that do not fit together wait for each other. A run that cannot fit at all
    gets a LoadError that says what is too large, and the way out.
    """

    def __init__(
        self,
        budget: int | str | Mapping[str, int | str] | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        mover: Mover | None = None,
    ) -> None:
        self.device = str(torch.device(device))
        self.dtype = dtype_name(dtype) or "float32"
        self.budget = Limits.read(budget, self.device)
        self._mover = mover or Mover()
        self._leases: Leases[Handle] = Leases(self._lack, self._ended)
        self._holdings = Holdings(self.budget, self._mover, self._leased, self._leases.still)
        self._handles: dict[str, Handle] = {}
        self._names: dict[str, dict[str, None]] = {}
        self._collections: dict[str, dict[str, None]] = {}
        self._rules: list[tuple[Callable[[str], bool], Offload]] = []
        self._checked: set[str] = set()
        self._added = 0
        self._lock = threading.Lock()  # guards these tables; never held while something is loaded or waited for

    # ------------------------------------------------------------------------------------------ what there is
    def handle(
        self,
        spec: ComponentSpec,
        *,
        device: str | torch.device | DeviceMap | None = None,
        dtype: str | torch.dtype | None = None,
        name: str | None = None,
        collection: str | None = None,
    ) -> Handle:
        """A handle to bind. `dtype` overrides the spec's, `device` the manager's. Loads and reads nothing.

        A `DeviceMap` in place of a device has it on several; `memory/placement.py` makes one from a `device_map`.
        `name` is what patterns find it by; else the name of its folder.
        """
        if dtype is not None:
            spec = spec.using(dtype=dtype_name(dtype))
        device_map = device if isinstance(device, DeviceMap) else None
        where = device_map.main_device if device_map else self.device if device is None else str(torch.device(device))  # type: ignore[arg-type]  # whatever came
        made = self._known(
            Handle(spec, self, spec.dtype or self.dtype, where, name or name_of(spec), device_map=device_map)
        )
        if collection is not None:
            self.collect(collection, [made])
        return made

    def add(self, name: str, component: Any, collection: str | None = None) -> Handle:  # any object
        """Have an object managed that was made by hand. It is moved by need, and never dropped: no file has it.

        Gives what to bind. An object that is there already keeps its handle.
        """
        with self._lock:
            for key, entry in list(self._holdings.entries.items()):
                if entry.read is None and entry.component is component:
                    self._names[key][name] = None
                    return self._handles[key]
            self._added += 1
            kind, space = type(component), getattr(component, "space", None)
            dtype = dtype_name(getattr(component, "dtype", None)) or self.dtype
            made = Added(spec_of(component), self, dtype, self.device, name, self._added, kind, space)
            entry = Entry(made.key, name, account(self.device), dtype, None, self._rule(name))
            entry.component, entry.parts, entry.where = component, self._mover.parts(component), device_of(component)
            self._handles[made.key], self._names[made.key] = made, {name: None}
            self._holdings.entries[made.key] = entry
        with _LOADING, suppress(Shortage):  # where nobody can make room for it, those who load are told
            self._holdings.make_room(entry.fact(leased=True))
        if collection is not None:
            self.collect(collection, [made])
        return made

    def load(self, component: ComponentSpec | Handle) -> Any:  # the object; its class is `component.type`
        """The object of a spec or handle, loaded if it is not in memory. LoadError if that fails."""
        return self._load(component) if isinstance(component, Handle) else self.handle(component).load()

    def check(self, handle: Handle) -> None:
        """Raise LoadError if `load` would not find class, config and weights. Opens no weight file."""
        entry = self._holdings.entries.get(handle.key)
        if handle.key in self._checked or (entry is not None and entry.component is not None):
            return
        if wrong := load_problems(handle.spec):
            rows = wrong[0] if len(wrong) == 1 else "\n  ".join([f"({len(wrong)} problems)", *wrong])
            raise LoadError(f"{handle.spec}: {rows}")
        with self._lock:
            self._checked.add(handle.key)

    def get(self, name: str) -> Any | None:  # the object
        """The object of this name or key if it is loaded, else None. Never loads. ConfigError where several are."""
        entries = self._holdings.entries.copy()
        keys = [name] if name in entries else [h.key for h in self.search(name) if h.key in entries]
        there = {key: (entries[key].given, entries[key].component) for key in keys}
        found = {key: whole if given is None else given for key, (given, whole) in there.items() if whole is not None}
        if len(found) > 1:
            raise ConfigError(f"{len(found)} components are called {name!r}. Give a key: {'; '.join(found)}.")
        return next(iter(found.values()), None)

    def search(self, pattern: str = "*", *, collection: str | None = None) -> list[Handle]:
        """The components whose names match, in the order they were asked for.

        `*` stands for any letters, `|` is "or", a leading "!" means all others: "unet", "text_encoder*", "*net*",
        "unet|vae", "!unet|vae". A component's key is a pattern for it alone.
        """
        with self._lock:
            if collection is not None and collection not in self._collections:
                raise ConfigError(f"no collection {collection!r}. {did_you_mean(collection, self._collections)}")
            if pattern in self._handles:
                return [self._handles[pattern]]
            inside = self._handles if collection is None else self._collections[collection]
            fits, turned = matcher(pattern.removeprefix("!")), pattern.startswith("!")
            return [h for k, h in self._handles.items() if k in inside and any(map(fits, self._names[k])) != turned]

    def collect(self, collection: str, components: "Iterable[Handle] | Mapping[str, Any]") -> None:
        """Put components into a collection: handles, or all that a graph has bound (`graph.bindings`)."""
        given = components.values() if isinstance(components, Mapping) else components
        handles = [value for value in given if isinstance(value, Handle)]
        if strange := [handle.name for handle in handles if handle.manager is not self]:
            raise ConfigError(f"collection {collection!r}: {', '.join(strange)} belong to another manager.")
        for handle in handles:
            self._known(handle)
        with self._lock:
            self._collections.setdefault(collection, {}).update({handle.key: None for handle in handles})

    @property
    def collections(self) -> dict[str, list[Handle]]:
        """The components of each collection."""
        with self._lock:
            return {name: [self._handles[k] for k in keys] for name, keys in self._collections.items()}

    def remove(self, component: "ComponentSpec | Handle | str") -> bool:
        """Forget a component, or all that a pattern finds. Whether something was held.

        What is leased goes when its last lease ends: runs keep what they have, its bytes count till then, and others
        wait for its room. Whoever asks for it before that shares it, and it stays.
        """
        handles = self._found(component)
        with _LOADING:
            held = [self._forget(handle.key) for handle in handles]
        self._leases.wake()
        return any(held)

    # ------------------------------------------------------------------------------------------ memory
    def lease(
        self, components: "Sequence[Handle] | str", owner: str = "you", stop: threading.Event | None = None
    ) -> Lease[Handle]:
        """Keep components (handles, or a pattern) from leaving until the lease is released, or its `with` ends.

        Waits until they fit beside what others have leased; they are loaded when somebody asks. Runs do this by
        themselves. LoadError if they can never fit; Cancelled if `stop` is set while it waits.
        """
        handles = self.search(components) if isinstance(components, str) else list(components)
        for handle in handles:
            _ = self._entry(handle).expected  # reads headers, while nobody waits for it
        lease = self._leases.take(handles, owner, stop)
        for handle in handles:
            self._stays(handle)
        return lease

    def wake(self) -> None:
        """Have leases that wait look at their `stop`."""
        self._leases.wake()

    def plan(self, pattern: str | None = None) -> tuple[Move, ...]:
        """What would leave its place, in this order, to let these components work together.

        Without a pattern: what would leave if more and more memory were asked for, on each device that has a budget.
        LoadError where they can never fit.
        """
        facts = self._holdings.facts()
        if pattern is None:
            devices = dict.fromkeys(d for fact in facts for d in fact.devices if self.budget(d) is not None)
            moves = [move for device in devices for move in order(device, facts, self.budget)]
            return tuple({move.key: move for move in reversed(moves)}.values())[::-1]  # one that is cut leaves all
        entries = [self._entry(handle) for handle in self.search(pattern)]
        try:
            return plan_for([e.wanted for e in entries], facts, self.budget)
        except Shortage as short:
            raise LoadError(short_text(short)) from None

    def offload(
        self,
        pattern: str = "*",
        by: By = "model",
        *,
        blocks: int = 1,
        prefetch: bool = False,
        storage: str | torch.dtype | None = None,
    ) -> None:
        """How components are kept from now on, those that come later included; see `memory/offload.py`.

        ConfigError for one that is in use, and for a narrower storage of an object that was added by hand.
        """
        rule = Offload(by, blocks, prefetch, dtype_name(storage))
        with _LOADING:
            with self._lock:
                self._rules.append((matcher(pattern), rule))
            for handle in self.search(pattern):
                if (entry := self._holdings.entries.get(handle.key)) is not None and entry.offload != rule:
                    self._change(entry, offload=rule)

    def to(
        self, pattern: str, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> None:
        """Use components on another device, or in another dtype, from now on. ConfigError for one that is in use.

        What comes from files is read anew for another dtype, so that nothing is rounded twice.
        """
        kind = dtype_name(dtype)
        with _LOADING:
            for handle in self.search(pattern):
                changes: dict[str, Any] = {"device": account(str(torch.device(device)))} if device is not None else {}
                self._change(self._entry(handle), **changes, **({"dtype": kind} if kind else {}))

    def free(self, pattern: str = "*") -> int:
        """Let go of all that nobody uses: to disk, or to the CPU what cannot be read again. Gives the bytes freed."""
        with _LOADING:
            before = self._holdings.bytes
            self._holdings.free([handle.key for handle in self.search(pattern)])
            freed = before - self._holdings.bytes
        self._leases.wake()
        return freed

    # ------------------------------------------------------------------------------------------ what is held
    def summary(self) -> list[Held]:
        """All components that were asked for, in that order."""
        with self._lock:
            handles = list(self._handles.values())
        leaves = {move.key: place for place, move in enumerate(self.plan(), 1)}
        users: dict[str, dict[str, None]] = {}
        for lease in self._leases.all():
            for handle in lease.held:
                users.setdefault(handle.key, {})[lease.owner] = None
        entries = self._holdings.entries
        return [row(h, entries.get(h.key), tuple(users.get(h.key, ())), leaves.get(h.key, 0)) for h in handles]

    @property
    def bytes(self) -> int:
        """Memory of all tensors held, each byte once, on whatever device."""
        return self._holdings.bytes

    def __len__(self) -> int:
        return sum(entry.component is not None for entry in list(self._holdings.entries.values()))

    def __bool__(self) -> bool:
        return True  # an empty manager is still a manager: `manager or default_manager()` must not swap it

    def __repr__(self) -> str:
        rows = self.summary()
        budget = f", budget {self.budget}" if self.budget else ""
        budget += f", {show_size(lost)} let go but held by others" if (lost := self._holdings.elsewhere) else ""
        return render(f"ComponentsManager({len(self)} loaded of {len(rows)}, {show_size(self.bytes)}{budget})", rows)

    # ------------------------------------------------------------------------------------------ inside
    def _known(self, handle: Handle) -> Handle:
        with self._lock:
            self._handles.setdefault(handle.key, handle)
            self._names.setdefault(handle.key, {})[handle.name] = None
        return handle

    def _found(self, component: "ComponentSpec | Handle | str") -> list[Handle]:
        if isinstance(component, str):
            return self.search(component)
        return [component if isinstance(component, Handle) else self.handle(component)]

    def _rule(self, name: str) -> Offload:
        return next((rule for fits, rule in reversed(self._rules) if fits(name)), AS_A_WHOLE)

    def _entry(self, handle: Handle) -> Entry:
        """What is known of a component, begun if nothing is."""
        entries = self._holdings.entries
        if (entry := entries.get(handle.key) or self._holdings.leaving.get(handle.key)) is not None:
            if entry.read is not None and entry.component is None:
                self._read_by(entry, handle)  # its spec may have another access than the handle that failed
            return entry
        rule = self._rule(handle.name)
        refuse_cut(handle.name, handle.device_map, rule)
        self._known(handle)
        with self._lock:
            made = Entry(handle.key, handle.name, account(handle.device), handle.dtype, None, rule)
            made.device_map = handle.device_map
            self._read_by(made, handle)
            return entries.setdefault(handle.key, made)

    def _read_by(self, entry: Entry, handle: Handle) -> None:
        entry.read = lambda device: self._mover.read(handle.spec, entry.dtype, device)
        entry.tell = lambda offload: self._tell(handle.spec, entry.dtype, offload)

    def _tell(self, spec: ComponentSpec, dtype: str, offload: Offload) -> Expected | None:
        return expected(spec, dtype, offload) if self.budget else None

    def _load(self, handle: Handle) -> Any:  # the object
        entry = self._holdings.entries.get(handle.key)
        if entry is not None and not entry.window and (given := entry.ready) is not None:
            self._holdings.touch(entry)
            return given
        free = not self._leases.held_here(handle)  # asked for by a user, not by a run that leased it
        with self.lease([handle], handle.name) if free and self.budget else nullcontext(), _LOADING:
            if free:
                self._stays(handle)
            entry = self._entry(handle)
            if entry.component is None:
                handle.ready()
            try:
                return self._holdings.bring(entry)
            except Shortage as short:
                raise LoadError(short_text(short)) from None

    def _stays(self, handle: Handle) -> None:
        """It was asked for: if it was to go when its last lease ends, it does not."""
        if handle.key in self._holdings.leaving:
            self._holdings.stays(handle.key)
            self._known(handle)

    def _leased(self) -> Mapping[str, int]:
        return Counter(handle.key for lease in self._leases.all() for handle in lease.held)

    def _lack(self, held: Sequence[Sequence[Handle]]) -> str:
        """What there is not enough of for these leases together."""
        if not self.budget:
            return ""
        leases = [[self._entry(handle) for handle in lease] for lease in held]
        return lack_text(leases, self._holdings, self.budget)

    def _ended(self, lease: Lease[Handle]) -> None:
        self._holdings.ended({handle.key for handle in lease.held} - self._leased().keys())

    def _change(self, entry: Entry, **changes: Any) -> None:  # fields of Entry
        with self._leases.still:
            if owners := [lease.owner for lease in self._leases.all() if any(h.key == entry.key for h in lease.held)]:
                raise ConfigError(
                    f"{entry.name} is in use by {', '.join(dict.fromkeys(owners))}. Change it when that run has ended."
                )
            self._holdings.change(entry, **changes)
        self._leases.wake()

    def _forget(self, key: str) -> bool:
        with self._lock:
            self._handles.pop(key, None)
            self._names.pop(key, None)
            self._checked.discard(key)
            for keys in self._collections.values():
                keys.pop(key, None)
        return self._holdings.remove(key)


_default: ComponentsManager | None = None


def default_manager() -> ComponentsManager:
    """The manager of this process, made at the first call: pipelines share components when none is given."""
    global _default
    with _LOADING:
        if _default is None:
            _default = ComponentsManager()
        return _default
