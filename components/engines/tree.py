"""What a view has changed in the modules that an engine knows: nothing, patches of adapters, or other layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..adapters.layers import PatchedLayer, Strengths
from ..models.views import combined_class


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes of a view against the module that it was made of.

    strengths: those of patched layers, each once, in the order of the layers. patched: paths of patched layers. other:
    paths of layers that were changed otherwise.
    """

    strengths: tuple[Strengths, ...] = ()
    patched: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    @property
    def none(self) -> bool:
        """Whether the view computes what the module computes."""
        return not self.patched and not self.other


def changes(known: nn.Module, seen: nn.Module) -> Changes:
    """The changes of a view `seen` of `known`."""
    strengths: dict[int, Strengths] = {}
    patched: list[str] = []
    other: list[str] = []
    for path, was, now in _pairs(known, seen, ""):
        if isinstance(now, PatchedLayer) and type(now) is combined_class(PatchedLayer, type(was)):
            strengths[id(now.strengths)] = now.strengths
            patched.append(path)
        else:
            other.append(path)
    return Changes(tuple(strengths.values()), tuple(patched), tuple(other))


def changed_inside(known: nn.Module, seen: nn.Module) -> tuple[str, ...]:
    """The paths of layers that a view changed otherwise than by patches, below its root, which may have a new class."""
    found: list[str] = []
    for name, child in known._modules.items():
        own = seen._modules[name]
        if child is not None:
            other = ("",) if own is None else changes(child, own).other
            found += [f"{name}.{path}" if path else name for path in other]
    return tuple(found)


def _pairs(known: nn.Module, seen: nn.Module, path: str) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """The layers that differ, with their paths. A copy of an unchanged module over changed children is none."""
    if known is seen:
        return
    if not _alike(known, seen):
        yield path, known, seen
        return
    for name, child in known._modules.items():
        own = seen._modules[name]
        if child is not None and own is not None:
            yield from _pairs(child, own, f"{path}.{name}" if path else name)


_OF_TORCH = frozenset(nn.Module().__dict__)


def _alike(known: nn.Module, seen: nn.Module) -> bool:
    """Whether two modules are of one class, over the same tensors, and have the same settings and names of children."""
    if type(known) is not type(seen) or known._modules.keys() != seen._modules.keys():
        return False
    if any((known._modules[name] is None) != (seen._modules[name] is None) for name in known._modules):
        return False
    a, b = ({**m._parameters, **m._buffers} for m in (known, seen))
    if a.keys() != b.keys() or any(a[name] is not b[name] for name in a):
        return False
    if known._forward_hooks != seen._forward_hooks or known._forward_pre_hooks != seen._forward_pre_hooks:
        return False
    return _same(_settings(known), _settings(seen))


def _settings(module: nn.Module) -> dict[str, Any]:  # any attributes
    return {k: v for k, v in module.__dict__.items() if k not in _OF_TORCH and k not in IGNORED}


IGNORED = {
    "attached_adapters", "_config", "engine_site", "engine_changes", "_cache", "several_processes", "divided_tokens",
}  # fmt: skip
"""Attributes that a view may have beside those of its module: adapters change layers, which are compared."""


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(a[name] is b[name] or _equal(a[name], b[name]) for name in a)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):  # a shallow copy copies dicts
        return _same(a, b)
    return type(a) is type(b) and isinstance(a, bool | int | float | str | tuple) and bool(a == b)
