"""The base of components that are made of another one: the attributes that both share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...graph.fields import Lazy
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


def config_of(component: Any) -> Mapping[str, Any]:
    """The published config of a component, loaded or not."""
    return component.config if isinstance(component, Lazy) else component.to_config()


def type_of(component: Any) -> Any:  # a class of any library
    """The class of a component, loaded or not; None if it is not known."""
    return component.type if isinstance(component, Lazy) else type(component)
