"""Views of a denoiser with the taps of a pass, made by the block that holds the denoiser."""

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Generic, TypeVar

from torch import nn

from ...graph.errors import ConfigError, LoadError
from ...graph.fields import Lazy
from ..models.levels import Size
from ..models.perturbable import HasPerturbableLayers, PerturbableLayers
from ..models.views import Replacement, view
from ..storage.building import on_meta
from .place import Current, Forward, TappedBlock
from .tap import Tap, Taps

M = TypeVar("M", bound=nn.Module)


def find_perturbable(component: Any) -> PerturbableLayers | None:
    """Return the perturbable layers of a model or of a handle; None where the model has no such method.

    Any: a bound object. For a handle whose model is not loaded, the model is made once on the meta device.
    """
    if isinstance(component, HasPerturbableLayers):
        return component.perturbable_layers()
    if not isinstance(component, Lazy) or not isinstance(component.type, HasPerturbableLayers) or not component.config:
        return None
    try:
        return _layers_of_class(component.type, json.dumps(component.config, sort_keys=True))
    except (ConfigError, LoadError):  # `ready` reports them
        return None


@lru_cache(maxsize=16)
def _layers_of_class(kind: Any, config: str) -> PerturbableLayers:  # Any: a model class with the method
    with on_meta():
        return kind.from_config(json.loads(config)).perturbable_layers()


def select_blocks(tap: Tap, layers: PerturbableLayers, model: str) -> Sequence[str]:
    """Return the paths of the blocks that a tap changes; `model` is the class name for errors.

    Raises:
        ConfigError: blocks that the model does not have, or that lack the part that the change needs.
    """
    return tap.change.select(layers, tap.chosen, model)


def apply_taps(model: M, taps: Taps, size: Size, current: Current | None = None) -> M:
    """Return a view of the model with these taps, for latents of `size`.

    current: the forward that runs, for changes that read it.

    Raises:
        ConfigError: a model without `perturbable_layers`, or layers that the model does not have.
    """
    if not isinstance(model, HasPerturbableLayers):
        raise ConfigError(f"{type(model).__name__} has no perturbable_layers(). Use a guider that perturbs no layers.")
    layers, current = model.perturbable_layers(), current or Current()
    for tap in taps.taps:
        replacements: dict[str, Replacement] = {}
        for path in select_blocks(tap, layers, type(model).__name__):
            replacements |= tap.change.replacements(TappedBlock(path, model.get_submodule(path), layers, size, current))
        model = view(model, replacements)
    return model


_MOST_VIEWS = 16


class TappedViews(Generic[M]):
    """The views of a model with taps. Each forward uses one alone, so that threads never share one.

    Views are kept for later forwards of the same taps and size, as many as ran at once.
    """

    def __init__(self, model: M) -> None:
        self._model = model
        self._free: dict[tuple[Taps, Size], list[tuple[M, Current]]] = {}

    @contextmanager
    def view(self, taps: Taps, size: Size, forward: Forward) -> Generator[M]:
        """Lend a view for one forward; without taps, the model itself."""
        if not taps:
            yield self._model
            return
        free = self._free.setdefault((taps, size), [])
        try:
            tapped, current = free.pop()
        except IndexError:
            current = Current()
            tapped = apply_taps(self._model, taps, size, current)
        current.found = forward
        try:
            yield tapped
        finally:
            current.found = None
            free.append((tapped, current))
            if len(self._free) > _MOST_VIEWS:  # a block makes new taps in every step
                self._free.pop(next(iter(self._free)), None)
