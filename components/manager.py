"""The manager of components: it loads them, shares them, and keeps them within a memory budget."""

import copyreg
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from threading import Event, Lock
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch

from ..graph.errors import ConfigError, LoadError
from ..graph.lender import Waits
from .catalog import Catalog, Pattern
from .device_map import DeviceMap
from .handle import Added as Added
from .handle import Handle as Handle
from .handle import name_of, spec_of
from .loading.component import load_problems
from .loading.single_file.checkpoint import completed
from .memory.budget import Budget
from .memory.devices import canonical_device, device_name
from .memory.leases import Lease
from .memory.managed import LOADING_LOCK, ManagedMemory, Settings
from .memory.mover import Mover
from .memory.offload import By, Offload
from .memory.policy import Move
from .memory.sizes import show_size
from .memory.summary import Held as Held
from .memory.summary import render
from .spec import ComponentSpec, dtype_name


class ComponentsManager:
    """Loads components at their first use, one object for equal specs, and keeps them within a memory budget. Safe to
    use from many threads.

    budget: the most bytes that weights may take on the manager's device, as a number or a text such as "8GB"; or one
    for each of several devices: `{"cuda": "8GB", "cpu": "24GB"}`. None for no limit.
    device: where components are used. dtype: of a spec that names none, whatever its files hold; float32 by default,
    since half precision is slow on a CPU. mover: reads and moves the weights; tests pass a simulated one.

    A run leases the components that it needs at once, and they stay in memory until the lease ends. `memory/policy.py`
    decides which others leave. Runs that do not fit together wait for each other. A run that can never fit gets a
    LoadError that names the largest component and what to do.
    """

    def __init__(
        self,
        budget: int | str | Mapping[str, int | str] | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        mover: Mover | None = None,
    ) -> None:
        self._mover = mover or Mover()
        self.device = self._device(device)
        self.dtype = dtype_name(dtype) or "float32"
        self.budget = Budget.read(budget, self.device)
        self._catalog = Catalog()
        self._memory = ManagedMemory(self.budget, self._mover, self._catalog)
        self._checked: set[tuple[str, bool]] = set()
        self._added = 0
        self._lock = Lock()  # for adding objects; never held during loading or waiting

    # ------------------------------------------------------------------------------------------ components
    def handle(
        self,
        spec: ComponentSpec,
        *,
        device: str | torch.device | DeviceMap | None = None,
        dtype: str | torch.dtype | None = None,
        name: str | None = None,
        collection: str | None = None,
    ) -> Handle:
        """A handle that a graph can bind. Loads nothing. Of a single file it reads the header, for class and config.

        device: by default the manager's; a `DeviceMap` splits the component over several. dtype: by default the
        spec's, else the manager's. name: what patterns match; by default its folder's name. collection: one to add it
        to.
        """
        if dtype is not None:
            spec = spec.using(dtype=dtype_name(dtype))
        spec = completed(spec)
        device_map = device if isinstance(device, DeviceMap) else None
        if isinstance(device, DeviceMap):
            used_on = device.main_device
            for place, _ in device.sizes:
                self._mover.check_device(place)
        else:
            used_on = self.device if device is None else self._device(device)
        made = Handle(spec, self, spec.dtype or self.dtype, used_on, name or name_of(spec), device_map=device_map)
        self._memory.check_rule(made)
        self._catalog.add(made)
        if collection is not None:
            self.collect(collection, [made])
        return made

    def add(self, name: str, component: Any, collection: str | None = None) -> Handle:  # any object
        """Manage an object that was made by hand, and return a handle that a graph can bind.

        It is moved when others need its room, and never dropped, since no file has it. An object that was added before
        keeps its handle.

        Raises:
            ConfigError: the name is no plain text, or the component is none: a class, a name, a spec or a handle.
        """
        _check_added(name, component)
        with self._lock:
            key = self._memory.added_key(component)
            if key is not None and (known := self._catalog.add_name(key, name)) is not None:
                return known
            self._added += 1
            cls, space = type(component), getattr(component, "space", None)
            dtype = _dtype_of(component) or self.dtype
            made = Added(spec_of(component), self, dtype, self.device, name, self._added, cls, space)
            self._catalog.add(made)
            self._memory.add(made, component)
        self._memory.make_room_for(made)
        if collection is not None:
            self.collect(collection, [made])
        return made

    def load(self, component: ComponentSpec | Handle) -> Any:  # the object; its class is `component.type`
        """The object of a spec or handle, loaded if it is not in memory. LoadError if that fails."""
        handle = component if isinstance(component, Handle) else self.handle(component)
        if _checked_key(handle) not in self._checked:
            handle.ready()  # what one handle may read is not shared with one that may not
        return self._memory.load(handle)

    def check(self, handle: Handle) -> None:
        """Raise LoadError if `load` would not find class, config and weights. Opens no weight file."""
        key = _checked_key(handle)
        if key in self._checked or (handle.spec.access.allow_pickle and handle.key in self._memory.loaded()):
            return
        if found := load_problems(handle.spec):
            rows = found[0] if len(found) == 1 else "\n  ".join([f"({len(found)} problems)", *found])
            raise LoadError(f"{handle.spec}: {rows}")
        self._checked.add(key)

    def get(self, name: str) -> Any | None:  # the object
        """The loaded object of this name or key, else None. Loads nothing. ConfigError if several match."""
        loaded = self._memory.loaded()
        keys = [name] if name in loaded else [h.key for h in self.search(name) if h.key in loaded]
        if len(keys) > 1:
            raise ConfigError(f"{len(keys)} components are called {name!r}. Pass a key: {'; '.join(keys)}.")
        return loaded[keys[0]] if keys else None

    def search(self, pattern: str = "*", *, collection: str | None = None) -> list[Handle]:
        """The components whose names match, in the order in which they were added.

        `*` stands for any letters, `|` is "or", a leading "!" selects all others: "unet", "text_encoder*", "*net*",
        "unet|vae", "!unet|vae". The key of a component is a pattern for it alone. collection: search only there.
        """
        return self._catalog.search(pattern, collection)

    def collect(self, collection: str, components: "Iterable[Handle] | Mapping[str, Any]") -> None:
        """Add components to a collection: handles, or all that a graph has bound (`graph.bindings`)."""
        values = components.values() if isinstance(components, Mapping) else components
        handles = [value for value in values if isinstance(value, Handle)]
        if foreign := [handle.name for handle in handles if handle.manager is not self]:
            raise ConfigError(f"collection {collection!r}: {', '.join(foreign)} belong to another manager.")
        for handle in handles:
            self._catalog.add(handle)
        self._catalog.collect(collection, handles)

    @property
    def collections(self) -> Mapping[str, list[Handle]]:
        """The components of each collection."""
        return self._catalog.collections()

    def remove(self, component: "ComponentSpec | Handle | str") -> bool:
        """Forget a component, or all that a pattern matches. Whether one of them was loaded.

        A leased component leaves when its last lease ends. Until then its bytes count and others wait for its room; if
        it is asked for again before, it is shared and stays.
        """
        keys = [handle.key for handle in self._handles_of(component)]
        with LOADING_LOCK:
            self._checked -= {(key, allowed) for key in keys for allowed in (True, False)}
            return self._memory.remove(keys)

    def _device(self, device: object) -> str:
        """The name of a device of this machine. ConfigError for another."""
        name = device_name(device)
        self._mover.check_device(name)
        return name

    def _handles_of(self, component: "ComponentSpec | Handle | str") -> list[Handle]:
        if isinstance(component, str):
            return self.search(component)
        return [component if isinstance(component, Handle) else self.handle(component)]

    # ------------------------------------------------------------------------------------------ memory
    def lease(
        self, components: "Sequence[Handle] | str", owner: str = "you", stop: Event | None = None, waits: Waits = None
    ) -> Lease[Handle]:
        """Keep components in memory until the lease is released, or its `with` block ends.

        Waits until they fit beside what others have leased. It loads none of them. Runs lease what they need by
        themselves. components: handles, or a pattern. owner: for `summary` and errors. waits: called before it waits.

        Raises:
            LoadError: they can never fit.
            Cancelled: `stop` was set while it waited.
        """
        handles = self.search(components) if isinstance(components, str) else list(components)
        return self._memory.lease(handles, owner, stop, waits)

    def numbers_of(self, handle: Handle) -> str:
        """The dtype, device and storage that a component has now, since they change its results."""
        return self._memory.entry(handle).numbers

    def wake(self) -> None:
        """Have threads that wait for a lease check their `stop`."""
        self._memory.wake()

    def plan(self, pattern: str | None = None) -> tuple[Move, ...]:
        """The moves that would let these components work together, in order. Moves nothing.

        Without a pattern: the order in which components would leave each device that has a budget. LoadError if they
        can never fit.
        """
        return self._memory.eviction_order() if pattern is None else self._memory.plan(self.search(pattern))

    def offload(
        self,
        pattern: str = "*",
        by: By = "model",
        *,
        blocks: int = 1,
        prefetch: bool = False,
        storage: str | torch.dtype | None = None,
    ) -> None:
        """Set how components are kept, those that are added later included. `memory/offload.py: Offload` has the
        settings.

        Raises:
            ConfigError: one is in use, or is split over devices; a narrower storage for an object added by hand.
        """
        rule = Offload(by, blocks, prefetch, dtype_name(storage, "storage"))
        with LOADING_LOCK:
            self._memory.add_rule(Pattern(pattern), rule)
            self._memory.set_offload(self.search(pattern), rule)

    def to(
        self, pattern: str, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
    ) -> None:
        """Use components on another device or in another dtype from now on. ConfigError if one is in use.

        For another dtype a component is read from its files again, so that nothing is rounded twice.
        """
        to_device = "" if device is None else canonical_device(self._device(device))
        self._memory.change(self.search(pattern), device=to_device, dtype=dtype_name(dtype) or "")

    def free(self, pattern: str = "*") -> int:
        """Drop all components that are not leased; move to the CPU those that cannot be read again. Gives the bytes
        freed."""
        return self._memory.free(self.search(pattern))

    # ------------------------------------------------------------------------------------------ summary
    def summary(self) -> list[Held]:
        """A row for each component, in the order in which they were added."""
        return self._memory.rows(self._catalog.handles())

    @property
    def bytes(self) -> int:
        """Bytes of all loaded components on all devices, each byte once."""
        return self._memory.bytes

    def __len__(self) -> int:
        return len(self._memory.loaded())

    def __bool__(self) -> bool:
        return True  # an empty manager is a manager: `manager or default_manager()` must not replace it

    def __repr__(self) -> str:
        rows = self.summary()
        budget = f", budget {self.budget}" if self.budget else ""
        if unfreed := self._memory.unfreed_bytes:
            budget += f", {show_size(unfreed)} dropped but still in use"
        return render(f"ComponentsManager({len(self)} loaded of {len(rows)}, {show_size(self.bytes)}{budget})", rows)


def _checked_key(handle: Handle) -> tuple[str, bool]:
    """The values that the result of a check depends on: the component, and whether its pickles may be read."""
    return handle.key, handle.spec.access.allow_pickle


def _check_added(name: object, component: object) -> None:
    """Raise ConfigError for arguments of `ComponentsManager.add` that are no name or no component."""
    kind, got = "", f"{reprlib.repr(component)} ({type(component).__name__})"
    if isinstance(component, str) and not isinstance(name, str):
        raise ConfigError(f"add: the name comes first. Write manager.add({component!r}, component).")
    if not isinstance(name, str) or not name or {*"*|!"} & {*name}:
        raise ConfigError(f"add: needs a name without *, | and !, which have a meaning in patterns. Got {name!r}.")
    if component is None or isinstance(component, str | torch.dtype | torch.device | Mapping):
        kind = "an object such as a model"
    elif isinstance(component, type):
        kind, got = "an object", f"the class {component.__name__}. Make one: {component.__name__}(…)"
    elif isinstance(component, Handle | ComponentSpec):
        kind, got = "a loaded object", f"a {type(component).__name__}. Write manager.handle(spec) for what files have"
    if kind:
        raise ConfigError(f"add: needs {kind}. Got {got}.")


def _dtype_of(component: Any) -> str | None:  # any object
    """The floating dtype that an object names, if it does."""
    found = getattr(component, "dtype", None)
    return str(found).removeprefix("torch.") if isinstance(found, torch.dtype) and found.is_floating_point else None


_default: ComponentsManager | None = None


def default_manager() -> ComponentsManager:
    """The manager of this process, made at the first call. Pipelines that are given no manager share it."""
    global _default
    with LOADING_LOCK:
        if _default is None:
            _default = ComponentsManager()
        return _default


_tokens: WeakKeyDictionary[ComponentsManager, str] = WeakKeyDictionary()
"""Texts by which pickles name the managers that were made in this process."""
_received: dict[str, ComponentsManager] = {}
"""Managers of other processes, made again here. They stay, so that the next pickle finds their components loaded."""


def _reduced(manager: ComponentsManager) -> tuple[Any, ...]:
    """A manager in a pickle: its settings. Its process gets itself back, and another process one like it."""
    if manager is _default:
        token = ""
    elif (token := next((t for t, known in _received.items() if known is manager), "")) == "":
        token = _tokens.setdefault(manager, uuid4().hex)
    limits = manager.budget.limits
    return _manager_again, (token, limits, manager.device, manager.dtype, manager._mover, manager._memory.settings())


def _manager_again(
    token: str, limits: Mapping[str, int], device: str, dtype: str, mover: Mover, settings: Settings
) -> ComponentsManager:
    """The manager of a pickle: the one of that token; "" is the process's own. Another is made at its first pickle."""
    global _default
    with LOADING_LOCK:
        known = [_default] if token == "" else [_received.get(token), *(m for m, t in _tokens.items() if t == token)]
        if (found := next((manager for manager in known if manager is not None), None)) is not None:
            return found
        made = ComponentsManager(limits or None, device=device, dtype=dtype, mover=mover)
        made._memory.use(settings)
        if token == "":
            _default = made
        else:
            _received[token] = made
        return made


copyreg.pickle(ComponentsManager, _reduced)
