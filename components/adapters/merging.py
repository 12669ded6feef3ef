"""Merge adapters into copies of models, for speed: a copy needs no second product in any layer."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...graph.edits import edited
from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ...graph.structure import Structure
from ..models.views import Replacement, view
from .adapted import Adapted, set_wide_config
from .attached import AttachedAdapters
from .layers import LayerPatches
from .over import OverComponent
from .widening import summed


def merged(graph: Structure, dtype: Any = None) -> Structure:  # a torch.dtype, its name, or None
    """The graph with copies of its models, whose weights have the adapters added. The models themselves stay.

    Args:
        graph: a graph with adapters.
        dtype: of the copies; None for that of the models. Sums are made in float32.

    Raises:
        ConfigError: no adapters, adapters that differ between prompts or steps, or a quantized model.
    """
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if kind is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ConfigError(f"merged: needs a floating dtype, such as 'float16'. Got {dtype!r}.")
    adapted = {name: v for name, v in graph.adapted_bindings.items() if isinstance(v, Adapted) and v.placed}
    if not adapted:
        raise ConfigError("merged: the graph has no adapters. Write pipe.with_adapters(…).merged().")
    copies = {name: _merged(name, value, kind) for name, value in adapted.items()}
    embeddings = cast("AttachedAdapters", graph.adapters).alone()  # no weight of a published model has them
    return edited(graph, bindings={**graph.bindings, **copies}, adapters=embeddings)


def _merged(name: str, adapted: Adapted, dtype: torch.dtype | None) -> Any:  # a model, or a component over one
    if isinstance(adapted.base, OverComponent):  # an engine, which runs the copy too
        return replace(adapted.base, base=_merged(name, replace(adapted, base=adapted.base.base), dtype))
    return merged_model(name, adapted, dtype)


def merged_model(name: str, adapted: Adapted, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy of a component, whose weights have its adapters added.

    Raises:
        ConfigError: adapters that differ between prompts or steps, or a quantized model.
    """
    if adapted.varies:
        raise ConfigError(f"merged: the adapters of {name} differ between prompts or steps. Call the graph as it is.")
    model: Any = adapted.base.load() if isinstance(adapted.base, Lazy) else adapted.base  # a model of ours
    if getattr(model, "quantization", None) is not None:
        raise ConfigError(f"merged: {name} is quantized. Load it without quantization to merge, or call it as it is.")
    twin = cast("nn.Module", copy.deepcopy(model))
    for path, patches in adapted.patches_on(model).layers.items():
        _add(twin.get_submodule(path), patches, adapted.strengths(path=path))
    set_wide_config(twin, adapted)
    return twin if dtype is None else twin.to(dtype)


def merged_view(model: nn.Module, layers: Mapping[str, LayerPatches], adapted: Adapted) -> nn.Module:
    """A view of a model with copies of the layers that have patches, whose weights have them added.

    Args:
        model: the model without adapters.
        layers: the patches, by the path of the layer.
        adapted: the adapters, whose strengths differ neither between prompts nor between steps.
    """

    def merge(path: str, patches: LayerPatches) -> Replacement:
        def change(layer: nn.Module) -> nn.Module:
            twin = copy.deepcopy(layer)
            _add(twin, patches, adapted.strengths(path=path))
            return twin

        return change

    made = view(model, {path: merge(path, patches) for path, patches in layers.items()})
    set_wide_config(made, adapted)
    return made


def _add(layer: nn.Module, patches: LayerPatches, strengths: Tensor) -> None:
    """Add patches to the weight and the bias of a layer of the copy."""
    for name, added in patches.differences(strengths).items():
        own = layer._parameters.get(name)
        if own is None:
            layer._parameters[name] = nn.Parameter(added.to(_dtype(layer)), requires_grad=False)
        else:
            whole = own.detach().float()
            added = added.to(own.device)
            wider = added.ndim == own.ndim == 2 and added.shape[1] > own.shape[1]
            own.data = (summed(whole, added) if wider else whole + added.reshape(own.shape)).to(own.dtype)
            if wider and isinstance(layer, nn.Linear):
                layer.in_features = added.shape[1]


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype
