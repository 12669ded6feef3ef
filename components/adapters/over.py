"""The base of components that are made of another one: the attributes that both share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ...graph.errors import GraphFileError
from ...graph.fields import Derivation, Lazy
from ...graph.layout import Layout
from ...graph.lender import Lender
from ...graph.space import LatentSpace


@dataclass(frozen=True, eq=False)
class OverComponent(Lazy):
    """A component with adapters, bound in place of the component, which does not change.

    base: the component, an object or a handle.
    """

    base: Any  # any object that a graph binds

    @property
    def type(self) -> Any:  # a class of any library
        """The class of the component."""
        return type_of(self.base)

    @property
    def space(self) -> LatentSpace | None:
        """The latent space of the component."""
        return self.base.space

    @property
    def layout(self) -> Layout | None:
        """The layout of the component."""
        return self.base.layout

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the component."""
        return config_of(self.base)

    @property
    def lender(self) -> Lender | None:
        """The lender of the component."""
        return self.base.lender if isinstance(self.base, Lazy) else None

    @property
    def leased(self) -> Sequence[Lazy]:
        """The component itself, since a lender leases no other object."""
        return self.base.leased if isinstance(self.base, Lazy) else ()

    def ready(self) -> None:
        """Check that the component can be loaded."""
        if isinstance(self.base, Lazy):
            self.base.ready()

    def loaded_base(self) -> Any:
        """The component itself, loaded."""
        return self.base.load() if isinstance(self.base, Lazy) else self.base


@dataclass(frozen=True, eq=False)
class MachineComponent(OverComponent):
    """A component that a machine computes otherwise: with an engine, or with a backend of attention.

    Its entry in a graph file is that of the component itself: what it adds belongs to a machine, as a device does.
    component: its name in the graph.
    """

    component: str

    @property
    def own_attention(self) -> str:
        """The name of what computes its attention by kernels of its own; "" if a backend can."""
        return ""

    @property
    def form(self) -> str:
        """A text that is equal only where the component is computed alike."""
        return self.base.form if isinstance(self.base, MachineComponent) else ""

    def derived(self, derivation: Derivation) -> Lazy | None:
        """A component that is computed from the component itself."""
        return self.base.derived(derivation) if isinstance(self.base, Lazy) else None

    def to_json(self) -> Mapping[str, Any]:
        """The entry of the component itself. GraphFileError for an object."""
        if isinstance(self.base, Lazy):
            return self.base.to_json()
        raise GraphFileError(
            f"{self.component} is an object, which no file can name. Bind a ComponentSpec of its files."
        )

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, MachineComponent) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.base if isinstance(self.base, Lazy) else id(self.base), self.component

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


def innermost(component: Any) -> Any:  # any object that a graph binds
    """The component that no machine component is over."""
    while isinstance(component, MachineComponent):
        component = component.base
    return component


def config_of(component: Any) -> Mapping[str, Any]:
    """The published config of a component, loaded or not."""
    return component.config if isinstance(component, Lazy) else component.to_config()


def type_of(component: Any) -> Any:  # a class of any library
    """The class of a component, loaded or not; None if it is not known."""
    return component.type if isinstance(component, Lazy) else type(component)
