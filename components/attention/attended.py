"""`attention=` of a call and of a graph: components whose layers of attention have a backend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ...graph.edits import edited
from ...graph.errors import ConfigError
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ...graph.structure import Structure
from ...registry import attention_backends, did_you_mean
from ..adapters.over import MachineComponent, innermost, type_of
from ..kernels.backend import AttentionBackend
from ..kernels.kernel import AttentionReport, Kernel
from ..memory.tensors import device_of
from ..models.attention import AttentionCore
from ..models.base import Model
from ..models.view_cache import ViewCache
from ..models.views import Replacement, shallow_copy, view


@dataclass(frozen=True, eq=False)
class Attended(MachineComponent):
    """A component whose layers of attention have a backend. Its object is a view of the component's.

    Other machine components, adapters and taps are over it: a backend is inside of all that they do.
    """

    backend: AttentionBackend

    @property
    def form(self) -> str:
        """The backend, and the engine or backend below it."""
        return f" with {self.backend.key}{super().form}"

    @property
    def kernel(self) -> Kernel:
        """The kernel of all its layers. Components with one base share it."""
        return self._kept.kernel

    def content_key(self) -> str | None:
        """The key of the component and of the backend, whose results differ by rounding from those of others."""
        try:
            return digest("attention", content_key(self.backend), content_key(self.base))
        except NoContentKey:
            return None

    def load(self) -> Any:
        """A view of the loaded component: the same one for all with this base and backend."""
        kept = self._kept
        return kept.views.of(cast("nn.Module", self.loaded_base()), lambda model: attended_view(model, kept.kernel))

    @property
    def _identity(self) -> tuple[object, ...]:
        return *super()._identity, self.backend

    @property
    def _kept(self) -> "_Kept":
        known = _KEPT.setdefault(self.base, {})
        key = self.component, self.backend
        return known.get(key) or known.setdefault(key, _Kept(Kernel(self.backend, self.component)))


@dataclass(frozen=True, eq=False)
class _Kept:
    kernel: Kernel
    views: ViewCache = field(default_factory=ViewCache)


_KEPT: "WeakKeyDictionary[Any, dict[tuple[str, AttentionBackend], _Kept]]" = WeakKeyDictionary()
"""Kernels and views by component. Runs with equal backends have one view, and so they share forwards."""


def attended_view(model: nn.Module, kernel: Kernel) -> nn.Module:
    """A view of a model whose layers of attention have a kernel."""

    def change(layer: nn.Module) -> nn.Module:
        twin = shallow_copy(layer)
        twin.__dict__["kernel"] = kernel
        return twin

    layers = [path for path, module in model.named_modules() if isinstance(module, AttentionCore)]
    changes: dict[str, Replacement] = dict.fromkeys(layers, change)
    return view(model, changes)


def attended(graph: Structure, attention: Any) -> Structure:
    """The graph with a backend of attention; see `Graph.using`.

    Args:
        graph: any graph.
        attention: a backend or its name, for all models that it can run in; a dict of them by component; None for
            the choice of the table.

    Raises:
        ConfigError: an unknown backend or component; one that cannot run; no component at all.
    """
    if isinstance(attention, Mapping):
        chosen = _named(graph.bindings, cast("Mapping[Any, Any]", attention))
    elif attention is None:
        chosen = dict.fromkeys(graph.bindings)
    else:
        chosen = _able(graph.bindings, backend_named(attention))
    bindings = {**graph.bindings, **{name: _with(graph.bindings[name], name, one) for name, one in chosen.items()}}
    return edited(graph, bindings=bindings)


def backend_named(backend: Any) -> AttentionBackend:
    """The backend of a name, or the backend itself. ConfigError for an unknown one, or one that cannot run here."""
    made = backend
    if isinstance(backend, str) and backend in attention_backends:
        made = attention_backends[backend]()
    if not isinstance(made, AttentionBackend):
        known = list(attention_backends)
        if isinstance(backend, str) and backend.endswith("_hub"):
            hint = f"No kernels are downloaded from the Hub. Install one: {', '.join(known)}."
        else:
            hint = did_you_mean(backend, known) if isinstance(backend, str) else f"Pass one of {', '.join(known)}."
        raise ConfigError(f"attention: needs a backend, got {backend!r}. {hint}")
    if reason := made.missing():
        raise ConfigError(f"attention: {made.name} {reason}")
    return made


def register(kind: type[AttentionBackend]) -> type[AttentionBackend]:
    """Make a backend known by its `name`, for `attention=`. It can be a decorator."""
    attention_backends.add(kind.name, kind)
    return kind


def backend_of(component: Any) -> str:  # any object that a graph binds
    """The name of the backend that is set for a component; "" for none."""
    while isinstance(component, MachineComponent):
        if isinstance(component, Attended):
            return component.backend.name
        component = component.base
    return ""


def _named(bindings: Mapping[str, Any], attention: Mapping[Any, Any]) -> Mapping[str, AttentionBackend | None]:
    chosen = {name: None if one is None else backend_named(one) for name, one in attention.items()}
    for name in chosen:
        if name not in bindings:
            raise ConfigError(f"attention: the graph has no component {name!r}. {did_you_mean(str(name), bindings)}")
    pairs = {name: (bindings[name], one) for name, one in chosen.items() if one is not None}
    refused = {name: reason for name, pair in pairs.items() if (reason := _refusal(*pair))}
    if refused:
        raise ConfigError(f"attention: these components cannot have it.{_lines(refused)}")
    return chosen


def _able(bindings: Mapping[str, Any], backend: AttentionBackend) -> Mapping[str, AttentionBackend]:
    reasons = {name: _refusal(value, backend) for name, value in bindings.items() if _takes_backend(value)}
    if found := {name: backend for name, reason in reasons.items() if not reason}:
        return found
    raise ConfigError(f"attention: no component of this graph can have {backend.name}.{_lines(reasons)}")


def _lines(reasons: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {reason}." for name, reason in reasons.items())


def _refusal(component: Any, backend: AttentionBackend) -> str:
    """Why a component cannot have a backend; "" if it can."""
    if not _takes_backend(component):
        return f"{getattr(type_of(component), '__name__', 'an unknown class')} has no attention that takes a backend"
    own: Sequence[str] = [one.own_attention for one in _over(component) if one.own_attention]
    if own:
        return f"{own[0]} has its own attention"
    reason = backend.unfit_device(torch.device(_device(innermost(component))))
    return f"{backend.name} {reason}" if reason else ""


def _device(component: Any) -> str:
    return component.device if isinstance(getattr(component, "device", None), str) else device_of(component)


def _takes_backend(component: Any) -> bool:
    kind = type_of(component)
    return isinstance(kind, type) and issubclass(kind, Model) and kind.takes_backend


def _over(component: Any) -> Sequence[MachineComponent]:
    found: list[MachineComponent] = []
    while isinstance(component, MachineComponent):
        found.append(component)
        component = component.base
    return found


def _with(component: Any, name: str, backend: AttentionBackend | None) -> Any:
    """The component with this backend and no other; engines and plans around it stay."""
    if isinstance(component, Attended):
        return _with(component.base, name, backend)
    if isinstance(component, MachineComponent):
        base = _with(component.base, name, backend)
        return component if base is component.base else replace(component, base=base)
    return component if backend is None else Attended(component, name, backend)


class UsedAttention(NamedTuple):
    """A backend of one component, and what it did."""

    backend: AttentionBackend
    report: AttentionReport

    def __str__(self) -> str:
        return f"{self.backend.name}: {self.report}"


def report(graph: Structure) -> Mapping[str, UsedAttention]:
    """What the backends of a graph did, by component: calls, and calls that torch's choice computed, with reasons.

    A call with `attention=` counts in the report of a graph with the same backend: `report(pipe.using(attention=…))`.
    """
    found = {n: one for n, v in graph.bindings.items() for one in _over(v) if isinstance(one, Attended)}
    return {name: UsedAttention(one.backend, one.kernel.report) for name, one in found.items()}
