"""Components that are trained: a view over the frozen component, made when it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from torch import nn

from ..adapters.over import OverComponent
from ..models.view_cache import ViewCache
from ..models.views import Replacement, shallow_copy, view

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class TrainedComponent(OverComponent):
    """A component with layers that are trained. A recipe binds it; the component itself does not change.

    It has no content key, since its numbers change at each step: no memo keeps what is computed with it.

    changes: of layers, by their paths.
    """

    changes: Mapping[str, Replacement]
    views: ViewCache = field(default_factory=ViewCache, init=False, repr=False)

    def load(self) -> Any:
        """A view of the loaded component. Its own parameters need no gradients."""
        return self.views.of(cast("nn.Module", self.loaded_base()), lambda model: view(frozen(model), self.changes))


def frozen(model: M) -> M:
    """The model, or where its parameters need gradients, a copy over the same memory whose parameters need none."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    twin = shallow_copy(model)
    for name, parameter in model.named_parameters(recurse=False):
        twin._parameters[name] = nn.Parameter(parameter.detach(), requires_grad=False)
    twin._modules.update({name: frozen(child) for name, child in model.named_children()})
    return twin
