"""Handles: components that a graph binds and their manager loads at the first use."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NoReturn, Protocol

import torch
from pydantic import JsonValue

from ..graph.errors import GraphError, GraphFileError, LoadError
from ..graph.fields import Derivation, Lazy
from ..graph.layout import Layout
from ..graph.lender import Lender
from ..graph.memo.contents import content_key
from ..graph.memo.library_values import NoContentKey
from ..graph.space import LatentSpace
from ..registry import hint_of
from .contents import spec_content
from .device_map import DeviceMap
from .loading.spaces import layout_of, space_of
from .spec import ComponentSpec

_QUANTIZED_BY = ("bitsandbytes", "torchao", "quanto")
"""The libraries whose tensors hold quantized weights."""


class Loader(Lender, Protocol):
    """An object that makes handles, loads them and lends them to runs: a `ComponentsManager`."""

    dtype: str
    """The dtype of a spec that names none."""

    def handle(
        self, spec: ComponentSpec, *, device: "str | torch.device | DeviceMap | None" = None, name: str | None = None
    ) -> "Handle":
        """A handle for a spec, on a device, on several, or on the loader's own. Loads and reads nothing."""
        ...

    def numbers_of(self, handle: "Handle") -> str:
        """The dtype, device and storage that the component has now, since they change its results."""
        ...

    def check(self, handle: "Handle") -> None:
        """Raise LoadError if `load` would not find class, config and weights. Opens no weight file."""

    def load(self, component: "Handle") -> Any:
        """The object of a handle, loaded if it is not in memory."""


@dataclass(frozen=True, eq=False)
class Handle(Lazy):
    """A component that a manager loads at its first use. Graphs bind it in place of the object.

    spec: where the component comes from. manager: who loads it. dtype and device: what it is loaded with. name: what
    patterns of `manager.search` match. Handles of one manager with equal keys are equal and stand for one object.
    """

    spec: ComponentSpec
    manager: Loader
    dtype: str
    device: str
    name: str = ""
    device_map: DeviceMap | None = field(default=None, kw_only=True)
    """The device of each module, if the component lies on several devices; `device` is then the main one."""

    @cached_property
    def key(self) -> str:
        """The spec's loading key with the handle's dtype and device."""
        return f"{self.spec.using(dtype=self.dtype).key}|{self.device_map.key if self.device_map else self.device}"

    @property
    def lender(self) -> Loader:
        """Who leases it to runs."""
        return self.manager

    @cached_property
    def type(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  a property that is read once
        """The class of the loaded object; None where the hint leads to none, which `ready` reports."""
        try:
            return self.spec.type
        except LoadError:
            return None

    @cached_property
    def space(self) -> LatentSpace | None:  # pyright: ignore[reportIncompatibleMethodOverride]  a property that is read once
        """The latent space, by config files; None where they name none or are broken, which `ready` reports."""
        try:
            return space_of(self.spec)
        except LoadError:
            return None

    @cached_property
    def layout(self) -> Layout | None:  # pyright: ignore[reportIncompatibleMethodOverride]  a property that is read once
        """The sizes that models which add to it must share, by its config; None for a broken config: see `ready`."""
        try:
            return layout_of(self.spec)
        except LoadError:
            return None

    @cached_property
    def config(self) -> dict[str, JsonValue]:  # pyright: ignore[reportIncompatibleMethodOverride]  a property that is read once
        """Its published config, as the file has it; {} where there is none or it is broken: see `ready`."""
        try:
            return self.spec.read_config()
        except LoadError:
            return {}

    def derived(self, derivation: Derivation) -> "Handle":
        """A component that is computed from this one. Its manager keeps it beside this one, within the same budget."""
        name = f"{derivation.name} of {self.name}"
        return Derived(ComponentSpec(), self.manager, self.dtype, self.device, name, base=self, derivation=derivation)

    @property
    def is_quantized(self) -> bool:
        """Whether its weights are quantized by a library when they are read. Packed weights of GGUF are plain bytes."""
        found = self.spec.quantization or self.config.get("quantization_config")
        return isinstance(found, dict) and found.get("quant_method") in _QUANTIZED_BY

    @property
    def class_name(self) -> str:
        """The name of the object's class, for tables."""
        return self.spec.type_hint[1] if self.spec.type_hint else "unknown"

    @property
    def source(self) -> str:
        """Where the object comes from, for tables."""
        path = self.spec.pretrained_model_name_or_path
        named = "/".join(part for part in (path, self.spec.subfolder) if part) or "none"
        return named if self.spec.config is None else "inline config"

    def content_key(self) -> str | None:
        """The key of its class, settings and files, and of the dtype and device that it has now."""
        key = spec_content(self.spec)
        return None if key is None else f"{key} {self.manager.numbers_of(self)}"

    def ready(self) -> None:
        """Check that `load` will find class, config and weights. Opens no weight file. LoadError otherwise."""
        self.manager.check(self)

    def load(self) -> Any:  # the object; its class is `type`
        """The object: loaded now if it is not in memory, else the same one as before. LoadError if that fails.

        Under a memory budget it may leave its device, or be read again, while no lease holds it: see `manager.lease`.
        """
        return self.manager.load(self)

    def to_json(self) -> dict[str, JsonValue]:
        """The spec's JSON: device and manager belong to this process."""
        return self.spec.to_json()

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: a handle of the manager there. It reads the files itself."""
        return _handle_again, (self.manager, self.spec, self.device_map or self.device, self.name)

    def __deepcopy__(self, memo: object) -> "Handle":
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.manager is other.manager and self.key == other.key

    def __hash__(self) -> int:
        return hash((id(self.manager), self.key))

    def __repr__(self) -> str:
        return f"Handle({self.spec}, {self.dtype}, {self.device_map or self.device})"


@dataclass(frozen=True, eq=False, repr=False)
class Added(Handle):
    """An object that was added to a manager by hand. No file has it, so it is moved but never dropped."""

    number: int = 0
    """Tells it from other objects of its name."""
    kind: Any = None  # a class of any library
    latent_space: LatentSpace | None = None

    @cached_property
    def key(self) -> str:
        """Its name and number."""
        return f"added|{self.name}|{self.number}"

    @cached_property
    def type(self) -> Any:  # a class of any library
        """The class of the object."""
        return self.kind

    @cached_property
    def space(self) -> LatentSpace | None:
        """The latent space that the object names, if it does."""
        return self.latent_space

    @property
    def class_name(self) -> str:
        """The name of the object's class."""
        return self.kind.__name__

    @property
    def source(self) -> str:
        """The user."""
        return "added by hand"

    def content_key(self) -> str | None:
        """The key of the object."""
        try:
            return content_key(self.load())
        except NoContentKey:
            return None

    def ready(self) -> None:
        """Nothing can be missing: the object exists."""

    def to_json(self) -> dict[str, JsonValue]:
        """GraphFileError: a file cannot name the object."""
        raise GraphFileError(
            f"is a {self.kind.__name__} that was added to a manager by hand, so a file cannot say where it comes from. "
            "Save it with save_pretrained(folder) and bind a ComponentSpec of that folder, or bind the object itself."
        )

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            f"{self.name}: a pickle has no weights, and this {self.kind.__name__} was added to a manager by hand. Save "
            "it with save_pretrained(folder), and bind sf.load_component(folder) in its place."
        )

    def __repr__(self) -> str:
        return f"Added({self.name}: {self.kind.__name__}, {self.device})"


@dataclass(frozen=True, eq=False, repr=False)
class Derived(Handle):
    """A component that is computed from another one, `base`. It can be dropped, since it can be computed again."""

    base: Handle = field(kw_only=True)
    derivation: Derivation = field(kw_only=True)

    @cached_property
    def key(self) -> str:
        """Those of the derivation and of the other component."""
        return f"{self.derivation.name}|{self.derivation.key}|{self.base.key}"

    @cached_property
    def type(self) -> Any:
        """Not known before it is computed."""
        return None

    @property
    def class_name(self) -> str:
        """What it is."""
        return self.derivation.name

    @property
    def source(self) -> str:
        """The other component."""
        return f"made for {self.base.name}"

    def content_key(self) -> str | None:
        """None: what it is computed from has one."""
        return None

    def ready(self) -> None:
        """Check that the other component can be loaded."""
        self.base.ready()

    def make(self) -> Any:  # any object
        """Compute it. The other component is loaded for that."""
        return self.derivation.make(self.base.load())

    def to_json(self) -> dict[str, JsonValue]:
        """GraphFileError: no file has it."""
        raise GraphFileError(f"is computed from {self.base.name}, so a file has no entry for it. Save that one.")

    def __reduce__(self) -> NoReturn:
        raise GraphError(f"{self.name}: a pickle has no weights. Pickle the graph, whose adapters have files.")

    def __repr__(self) -> str:
        return f"Derived({self.name}, {self.device})"


def _handle_again(manager: Loader, spec: ComponentSpec, device: str | DeviceMap, name: str) -> Handle:
    """The handle of a pickle."""
    return manager.handle(spec, device=device, name=name)


def spec_of(component: Any) -> ComponentSpec:  # whatever was added
    """The spec of an object that comes from no file: its class, and its config if it has one."""
    hint = hint_of(type(component))
    try:
        return ComponentSpec(type_hint=hint, config=dict(component.to_config()))
    except (AttributeError, TypeError, ValueError):  # no config, or none that is JSON
        return ComponentSpec(type_hint=hint)


def name_of(spec: ComponentSpec) -> str:
    """The name of a component that was given none: its folder's, else its class's."""
    return PurePosixPath(spec.subfolder).name or (spec.type_hint[1] if spec.type_hint else "component")
