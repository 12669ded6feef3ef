"""Modules whose forward an engine runs."""

import weakref
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..memory.wrapper import WrapperTensor
from ..models.views import Replacement, shallow_copy
from .calls import Call
from .programs import Program, Programs
from .tree import Changes, changes

_SITE = "engine_site"


class Maker(Protocol):
    """The part of an engine that makes programs."""

    def unfit(self, call: Call, layer: nn.Module, found: Changes) -> str:
        """Why torch must run this call; "" if the engine can."""
        ...

    def program_key(self, call: Call, layer: nn.Module, found: Changes) -> Hashable:
        """A value that is equal for calls that one program answers."""
        ...

    def program(self, call: Call, layer: nn.Module, plain: nn.Module, at: "Site") -> Program:
        """The program for such calls. plain: the layer as torch runs it. Unmade if it cannot be made."""
        ...


class Site:
    """A place in a model whose forward an engine runs, shared by all views of it."""

    def __init__(self, path: str, kind: type[nn.Module], maker: Maker, programs: Programs) -> None:
        self.path, self.kind, self.maker, self.programs = path, kind, maker, programs
        self.known: nn.Module | None = None
        self._changes: weakref.WeakKeyDictionary[nn.Module, Changes] = weakref.WeakKeyDictionary()
        self._streamed: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()

    def changes(self, layer: nn.Module) -> Changes:
        """The changes of a view of the module, found once for each view."""
        if (found := self._changes.get(layer)) is None:
            assert self.known is not None
            found = self._changes[layer] = changes(self.known, layer)
        return found

    def is_streamed(self, layer: nn.Module) -> bool:
        """Whether weights of a view are somewhere else than the model, found once for each view."""
        if (found := self._streamed.get(layer)) is None:
            found = self._streamed[layer] = any(isinstance(p, WrapperTensor) for p in layer.parameters())
        return found

    def plain(self, layer: nn.Module) -> nn.Module:
        """The layer as torch runs it."""
        return shallow_copy(layer, self.kind)

    def run(self, layer: nn.Module, forward: Callable[..., Any], args: Sequence[Any], named: Mapping[str, Any]) -> Any:
        """The output of the layer: by the program of such calls, or by torch where the engine cannot run it."""
        call = Call.of(args, named)
        if torch.compiler.is_compiling() or any(tensor.is_meta for tensor in call.tensors):
            return forward(*args, **named)
        found = self.changes(layer)
        if reason := self._unfit(call, layer, found) or self.maker.unfit(call, layer, found):
            self.programs.fall_back(reason)
            return forward(*args, **named)
        key = self.path, call.rest, call.dtypes, self.maker.program_key(call, layer, found)
        made = self.programs.find(key, lambda: self.maker.program(call, layer, self.plain(layer), self))
        if isinstance(made, str):
            self.programs.fall_back(made)
            return forward(*args, **named)
        self.programs.report.ran += 1
        return made(call.tensors, layer)

    def _unfit(self, call: Call, layer: nn.Module, found: Changes) -> str:
        """Why no engine can run this call; "" if one can."""
        if call.odd:
            return f"an argument is of type {call.odd}"
        if found.other:
            return f"the call changes layers: {_shown(found.other)}"
        if torch.is_grad_enabled() and _has_gradients(call.tensors, layer):
            return "it computes gradients"
        if self.is_streamed(layer):
            return "its weights are not on its device, or are stored in a narrower dtype"
        return ""

    def __deepcopy__(self, memo: object) -> "Site":
        return self


def _has_gradients(tensors: Sequence[Tensor], layer: nn.Module) -> bool:
    return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in layer.parameters())


def _shown(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 2} more" if len(paths) > 2 else ""
    return ", ".join(path or "the model itself" for path in paths[:2]) + more


class EngineLayer(nn.Module):
    """A module that an engine runs; the first of the classes that such a module inherits from."""

    engine_site: Site

    def forward(self, *args: Any, **named: Any) -> Any:  # as the module's own forward
        """The output of the module."""
        return self.engine_site.run(self, super().forward, args, named)


@cache
def engine_class(first: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    """A class of both under the name of the second, which configs and tables read."""
    return type(kind.__name__, (first, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def at_site(path: str, maker: Maker, programs: Programs) -> Replacement:
    """A change that lets an engine run a module. path: that of the module in its model."""

    def change(module: nn.Module) -> nn.Module:
        site = Site(path, type(module), maker, programs)
        twin = shallow_copy(module, engine_class(EngineLayer, type(module)))
        twin.__dict__[_SITE] = site
        site.known = twin
        return twin

    return change
