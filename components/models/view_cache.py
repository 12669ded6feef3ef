"""The view of a model that is made once, and again where the model has got other tensors."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

from torch import Tensor, nn

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
    """The view of each model, made again only where the model has got other tensors. Threads share it."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def of(self, model: M, make: Callable[[M], M]) -> M:
        """The view that `make` makes of a model."""
        with self._lock:
            kept = self._kept.get(model)
            if kept is None or not kept.is_current(model):
                made = make(model)
                kept = self._kept[model] = _Kept(made, tuple(copies(model, made)))
            return cast("M", kept.view)


def copies(plain: nn.Module, twin: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The pairs of modules below both roots, where the second root has a copy of a module of the first."""
    for name, child in plain._modules.items():
        other = twin._modules.get(name)
        if child is not None and other is not None and other is not child and isinstance(other, type(child)):
            yield child, other
            yield from copies(child, other)


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
