"""What a graph binds: a component that a manager will have ready when a block needs it."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from ..graph.errors import GraphFileError, LoadError
from ..graph.layout import Layout
from ..graph.space import LatentSpace
from ..registry import hint_of
from .memory.cut import Cut
from .spec import ComponentSpec

if TYPE_CHECKING:
    from .manager import ComponentsManager


@dataclass(frozen=True, eq=False)
class Handle:
    """A component that a manager will load at its first use: what a graph binds.

    `spec` is as it was given; `dtype` and `device` are what it will be loaded with. Handles of one manager with equal
    `key`s are equal and stand for one object. `name` is what it is called by in patterns.
    """

    spec: ComponentSpec
    manager: "ComponentsManager"
    dtype: str
    device: str
    name: str = ""
    cut: Cut | None = field(default=None, kw_only=True)
    """Which of it lies where, if it is on several devices; `device` is then the one that it takes values on."""

    @cached_property
    def key(self) -> str:
        """The spec's loading key with the dtype and the device that hold for this handle."""
        return f"{self.spec.using(dtype=self.dtype).key}|{self.device if self.cut is None else self.cut.key}"

    @property
    def lender(self) -> "ComponentsManager":
        """Who lends it to runs."""
        return self.manager

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

    @cached_property
    def layout(self) -> Layout | None:
        """What it shares with a model that adds to it, by its config; None where that is broken: see `ready`."""
        try:
            return self.spec.layout
        except LoadError:
            return None

    @cached_property
    def config(self) -> dict[str, JsonValue]:
        """Its published config, as the file has it; {} where there is none, or it is broken: see `ready`."""
        try:
            return self.spec.read_config()
        except LoadError:
            return {}

    def ready(self) -> None:
        """Check, without opening a weight file, that `load` will find class, config and weights. LoadError if not."""
        self.manager._ready(self)

    def load(self) -> Any:  # the object; its class is `type`
        """The object: loaded now if nobody has asked before, else the one that is there. LoadError says what failed.

        Under a memory budget it may leave its device, or be read anew, when nobody leases it; `manager.lease` does.
        """
        return self.manager._load(self)

    def to_json(self) -> dict[str, JsonValue]:
        """The spec's JSON: the device and the manager belong to this process."""
        return self.spec.to_json()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self.manager is other.manager and self.key == other.key

    def __hash__(self) -> int:
        return hash((id(self.manager), self.key))

    def __repr__(self) -> str:
        return f"Handle({self.spec}, {self.dtype}, {self.cut or self.device})"


@dataclass(frozen=True, eq=False, repr=False)
class Added(Handle):
    """An object that was added by hand: no file says where it comes from, so it is moved but never dropped."""

    number: int = 0
    kind: Any = None  # a class of any library
    latent_space: LatentSpace | None = None

    @cached_property
    def key(self) -> str:
        return f"added|{self.name}|{self.number}"

    @cached_property
    def type(self) -> Any:  # a class of any library
        return self.kind

    @cached_property
    def space(self) -> LatentSpace | None:
        return self.latent_space

    def ready(self) -> None:
        """It was there when it was added."""

    def to_json(self) -> dict[str, JsonValue]:
        raise GraphFileError(
            f"is a {self.kind.__name__} that was added to a manager by hand, so that no file can say where it comes "
            "from. Save it with save_pretrained(folder) and bind a ComponentSpec of that folder, or bind the object."
        )

    def __repr__(self) -> str:
        return f"Added({self.name}: {self.kind.__name__}, {self.device})"


def spec_of(component: Any) -> ComponentSpec:  # whatever was added
    """What can be said of an object that no file is known for: its class and its config."""
    hint = hint_of(type(component))
    try:
        return ComponentSpec(type_hint=hint, config=dict(component.to_config()))
    except (AttributeError, TypeError, ValueError):  # no config, or none that is JSON
        return ComponentSpec(type_hint=hint)


def name_of(spec: ComponentSpec) -> str:
    """What a component is called where nobody says: by its folder, else by its class."""
    return PurePosixPath(spec.subfolder).name or (spec.type_hint[1] if spec.type_hint else "component")
