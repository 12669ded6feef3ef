"""The components of a plan: models on the meta device, by their configs; tokenizers and schedulers as they are."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...graph.errors import SfumatoError
from ...graph.fields import Lazy
from ...graph.layout import Layout
from ...graph.space import LatentSpace
from ...graph.structure import Structure
from ..adapters.over import OverComponent
from ..handle import Handle
from ..loading.component import is_model
from ..memory.estimate import model_without_files
from ..memory.tensors import tensors_of
from .counting import Counting, count_once
from .walk import Unknown


class EmptyComponents:
    """The components of graphs, without weights. Each is made when it is first used."""

    def __init__(self, counting: Counting) -> None:
        self._counting = counting
        self._made: dict[Any, Any] = {}
        self._bindings: dict[int, tuple[Structure, Mapping[str, Any]]] = {}

    def of(self, graph: Structure) -> Mapping[str, Any]:
        """The bindings of a graph with its adapters."""
        if (known := self._bindings.get(id(graph))) is None:
            plain = {name: Empty(value, self) for name, value in graph.bindings.items() if value is not None}
            made = plain if graph.adapters is None else graph.adapters.on(plain)
            known = self._bindings[id(graph)] = (graph, made)
        return known[1]

    def load(self, component: Any) -> Any:  # any component
        """The component itself if it has no weights; else one like it on the meta device; or `Unknown`."""
        while isinstance(component, OverComponent):  # an engine computes the same
            component = component.base
        key = component if isinstance(component, Handle) else id(component)
        if key not in self._made:
            try:
                self._made[key] = self._load(component)
            except SfumatoError as error:
                self._made[key] = Unknown(f"needs {getattr(component, 'name', 'a component')}: {error}")
        return self._made[key]

    def _load(self, component: Any) -> Any:
        if isinstance(component, Handle) and is_model(component.type):
            dtype = component.manager.numbers_of(component).partition(" ")[0]
            model = model_without_files(component.spec, getattr(torch, dtype))
        elif isinstance(component, Lazy):
            return component.load()
        elif isinstance(component, nn.Module):
            model = _on_meta(component)
        else:
            return component
        count_once(model.eval().requires_grad_(False), self._counting)
        return model


@dataclass(frozen=True, eq=False)
class Empty(Lazy):
    """A component of a graph, without weights."""

    base: Any  # any component
    components: EmptyComponents

    @property
    def type(self) -> Any:  # a class of any library
        """The class of the component."""
        return self.base.type if isinstance(self.base, Lazy) else type(self.base)

    @property
    def space(self) -> LatentSpace | None:
        """The latent space of the component."""
        return getattr(self.base, "space", None)

    @property
    def layout(self) -> Layout | None:
        """The layout of the component."""
        return getattr(self.base, "layout", None)

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the component."""
        own = self.base.config if isinstance(self.base, Lazy) else self.base.to_config()
        return own if isinstance(own, Mapping) else {}

    def load(self) -> Any:
        """The component without weights, or `Unknown`."""
        return self.components.load(self.base)


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy of a model that was bound by hand, without its weights."""
    empty: dict[int, Any] = {}
    for tensor in tensors_of(model):
        made: Tensor = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        empty[id(tensor)] = nn.Parameter(made, False) if isinstance(tensor, nn.Parameter) else made
    return copy.deepcopy(model, empty)
