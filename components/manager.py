"""Who loads components, shares them, and says what is held."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from ..graph.errors import ConfigError, LoadError
from ..graph.space import LatentSpace
from .loading.component import problems, read_component
from .spec import ComponentSpec, dtype_name

# One for the process, not for a manager: loaders (ours and those of transformers) change torch's global state for a
# while, and two at once would see each other's. Reentrant, since a component may load a part of itself.
_LOADING = threading.RLock()


class Held(NamedTuple):
    """A row of `ComponentsManager.summary()`: one component that was asked for, and what it takes."""

    key: str
    class_name: str
    source: str
    dtype: str
    device: str
    bytes: int
    loaded: bool


@dataclass(frozen=True, eq=False)
class Handle:
    """A component that a manager will load at its first use: what a graph binds.

    `spec` is as it was given; `dtype` and `device` are what it will be loaded with. Handles of one manager with equal
    `key`s are equal and stand for one object.
    """

    spec: ComponentSpec
    manager: "ComponentsManager"
    dtype: str
    device: str

    @cached_property
    def key(self) -> str:
        """The spec's loading key with the dtype and the device that hold for this handle."""
        return f"{self.spec.using(dtype=self.dtype).key}|{self.device}"

    @cached_property
    def type(self) -> Any:  # a class of any library
        """The class that `load` will give an object of, or None where the hint leads to none; `ready` says why."""
        try:
            return self.spec.type
        except LoadError:
            return None

    @cached_property
    def space(self) -> LatentSpace | None:
        """The latent space by the config files; None where they do not say, or are broken, which `ready` reports."""
        try:
            return self.spec.space
        except LoadError:
            return None

    def ready(self) -> None:
        """Check, without opening a weight file, that `load` will find class, config and weights. LoadError if not."""
        self.manager._ready(self)

    def load(self) -> Any:  # the object; its class is `type`
        """The object: loaded now if nobody has asked before, else the one that is there. LoadError says what failed."""
        return self.manager._load(self)

    def to_json(self) -> dict[str, JsonValue]:
        """The spec's JSON: the device and the manager belong to this process."""
        return self.spec.to_json()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.manager is other.manager and self.key == other.key

    def __hash__(self) -> int:
        return hash((id(self.manager), self.key))

    def __repr__(self) -> str:
        return f"Handle({self.spec}, {self.dtype}, {self.device})"


class ComponentsManager:
    """Loads components at their first use, one object for equal specs. Safe to use from many threads.

    A spec without a dtype is loaded in the manager's, float32, whatever the files hold: half precision is
    slow on a CPU.
    """

    def __init__(
        self,
        budget: int | str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
    ) -> None:
        if budget is not None:
            raise ConfigError(
                f"budget: came {budget!r}. Memory budgets are not in this version; they come with the memory issue. "
                "Leave it None and use remove(spec) to let go of a component."
            )
        self.device = str(torch.device(device))
        self.dtype = dtype_name(dtype) or "float32"
        self._handles: dict[str, Handle] = {}
        self._objects: dict[str, Any] = {}
        self._checked: set[str] = set()
        self._lock = threading.Lock()  # guards the three tables; never held while loading

    def handle(
        self,
        spec: ComponentSpec,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Handle:
        """A handle to bind. `dtype` overrides the spec's, `device` the manager's. Loads and reads nothing."""
        if dtype is not None:
            spec = spec.using(dtype=dtype_name(dtype))
        place = self.device if device is None else str(torch.device(device))
        return self._known(Handle(spec, self, spec.dtype or self.dtype, place))

    def load(self, spec: ComponentSpec) -> Any:  # the object; its class is `spec.type`
        """The object for a spec, loaded if need be."""
        return self.handle(spec).load()

    def get(self, key: str) -> Any | None:  # the object
        """The object held under a handle's key, or None if it is not loaded. Never loads."""
        return self._objects.get(key)

    def remove(self, spec: "ComponentSpec | Handle") -> bool:
        """Let go of a component. Whether there was one. Graphs that run keep theirs until they end."""
        key = (spec if isinstance(spec, Handle) else self.handle(spec)).key
        with self._lock:
            self._handles.pop(key, None)
            self._checked.discard(key)
            return self._objects.pop(key, None) is not None

    def summary(self) -> list[Held]:
        """All components that were asked for, in that order."""
        with self._lock:
            handles, objects = list(self._handles.values()), dict(self._objects)
        return [_row(handle, objects.get(handle.key)) for handle in handles]

    @property
    def bytes(self) -> int:
        """Memory of all tensors held, each storage counted once, on whatever device."""
        with self._lock:
            objects = list(self._objects.values())
        return _bytes(objects)

    def __len__(self) -> int:
        return len(self._objects)

    def __bool__(self) -> bool:
        return True  # an empty manager is still a manager: `manager or default_manager()` must not swap it

    def __repr__(self) -> str:
        rows = self.summary()
        head = f"ComponentsManager({len(self)} loaded of {len(rows)}, {_size(self.bytes)})"
        table = [("component", "source", "dtype", "device", "size")]
        table += [(r.class_name, r.source, r.dtype, r.device, _size(r.bytes) if r.loaded else "-") for r in rows]
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([head, *(f"  {line.rstrip()}" for line in lines)]) if rows else head

    def _known(self, handle: Handle) -> Handle:
        with self._lock:
            self._handles.setdefault(handle.key, handle)
        return handle

    def _ready(self, handle: Handle) -> None:
        key = handle.key
        if key in self._checked or key in self._objects:
            return
        if wrong := problems(handle.spec):
            rows = wrong[0] if len(wrong) == 1 else "\n  ".join([f"({len(wrong)} problems)", *wrong])
            raise LoadError(f"{handle.spec}: {rows}")
        with self._lock:
            self._checked.add(key)

    def _load(self, handle: Handle) -> Any:  # the object
        key = handle.key
        if (found := self._objects.get(key)) is not None:
            return found
        with _LOADING:
            if (found := self._objects.get(key)) is not None:  # another thread was first
                return found
            self._ready(handle)
            loaded = read_component(handle.spec, getattr(torch, handle.dtype), handle.device)
            with self._lock:
                self._handles.setdefault(key, handle)
                self._objects[key] = loaded
            return loaded


_default: ComponentsManager | None = None


def default_manager() -> ComponentsManager:
    """The manager of this process, made at the first call: pipelines share components when none is given."""
    global _default
    with _LOADING:
        if _default is None:
            _default = ComponentsManager()
        return _default


def _tensors(objects: Iterable[object]) -> Iterable[Tensor]:
    for held in objects:
        if isinstance(held, nn.Module):
            yield from held.parameters()
            yield from held.buffers()


def _bytes(objects: Iterable[object]) -> int:
    storages = {}
    for tensor in _tensors(objects):
        if not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[(tensor.device, storage.data_ptr())] = storage.nbytes()
    return sum(storages.values())


def _row(handle: Handle, loaded: object | None) -> Held:
    spec = handle.spec
    path = spec.pretrained_model_name_or_path
    source = "inline config" if spec.config is not None else "/".join(p for p in (path, spec.subfolder) if p) or "none"
    name = spec.type_hint[1] if spec.type_hint else "unknown"
    weighty = loaded is None or isinstance(loaded, nn.Module)
    return Held(
        key=handle.key,
        class_name=name,
        source=source,
        dtype=handle.dtype if weighty else "-",
        device=handle.device if weighty else "-",
        bytes=0 if loaded is None else _bytes([loaded]),
        loaded=loaded is not None,
    )


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
