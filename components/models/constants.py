"""Values that no step of a run changes: each is made by the first forward that needs it."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Constants:
    """Values that are equal in all forwards with the same prompts: keys and values, projected tokens, rotations.

    The block that calls a model has one for each set of prompts, and passes it in each step. A model that gets none
    makes the values in each forward. Where gradients are computed, values are made anew too.

    A layer keeps the values that it made. So views of a model share the values of the layers that they share, and a
    layer with patches of adapters has values of its own.
    """

    def __init__(self, keeps: bool = True) -> None:
        self._keeps = keeps
        self._by_name: dict[Hashable, Any] = {}
        self._by_layer: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()

    @property
    def keeps(self) -> bool:
        """Whether values are kept now."""
        return self._keeps and not torch.is_grad_enabled()

    @property
    def is_made(self) -> bool:
        """Whether a forward has made values of layers."""
        return bool(self._by_layer)

    def named(self, name: Hashable, make: Callable[[], T]) -> T:
        """Return the value of this name."""
        if not self.keeps:
            return make()
        if name not in self._by_name:
            self._by_name[name] = make()
        return cast("T", self._by_name[name])

    def of(self, layer: nn.Module, make: Callable[[], T]) -> T:
        """Return the value that belongs to a layer, which has one."""
        if not self.keeps:
            return make()
        if (found := self._by_layer.get(layer)) is None:
            found = self._by_layer[layer] = make()
        return cast("T", found)

    def output(self, layer: nn.Module, *inputs: Tensor) -> Tensor:
        """Return the output of a layer for inputs that no step changes."""
        return self.of(layer, lambda: layer(*inputs))


NO_CONSTANTS = Constants(keeps=False)
"""For a forward by itself: each value is made when it is needed."""
