"""Components that are trained: a view over the frozen component, made when it is loaded."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..adapters.over import OverComponent
from ..models.views import Replacement, shallow_copy, view

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A view, and the pairs of modules of the model and their copies in the view, without both roots."""

    view: nn.Module
    copies: tuple[tuple[nn.Module, nn.Module], ...]

    def is_current(self, model: nn.Module) -> bool:
        """Whether the model still has the tensors of the view: a move replaces buffers, and may replace parameters."""
        return all(_has_tensors_of(twin, plain) for plain, twin in ((model, self.view), *self.copies))


class ViewCache:
    """The view of a model that each step needs, made again only where the model has got other tensors."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()

    def of(self, model: M, make: Callable[[M], M]) -> M:
        """The view that `make` makes of a model."""
        kept = self._kept.get(model)
        if kept is None or not kept.is_current(model):
            made = make(model)
            kept = self._kept[model] = _Kept(made, tuple(_copies(model, made)))
        return cast("M", kept.view)


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


def _copies(plain: nn.Module, twin: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The pairs of modules below both roots, where the second root has a copy of a module of the first."""
    for name, child in plain._modules.items():
        other = twin._modules.get(name)
        if child is not None and other is not None and other is not child and isinstance(other, type(child)):
            yield child, other
            yield from _copies(child, other)


def _has_tensors_of(twin: nn.Module, plain: nn.Module) -> bool:
    return all(
        _is_same(other.get(name), tensor)
        for own, other in ((plain._parameters, twin._parameters), (plain._buffers, twin._buffers))
        for name, tensor in own.items()
    )


def _is_same(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether two tensors are one, or have the same memory."""
    if one is other:
        return True
    return one is not None and other is not None and one.device == other.device and one.data_ptr() == other.data_ptr()
