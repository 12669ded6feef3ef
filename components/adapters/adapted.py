"""Components with adapters: what a graph binds in place of a component."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from ...graph.edits import edited
from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ...graph.layout import Layout
from ...graph.lender import Lender
from ...graph.space import LatentSpace
from ...graph.structure import Structure
from ...registry import did_you_mean, models
from .adapter import Adapter, PatchSet, check_names
from .attach import Placed, Plan, patched_view, place, plan_patches
from .names import DENOISERS, ModelNames, names_of


@dataclass(frozen=True, eq=False)
class Adapted(Lazy):
    """A component with adapters. Its object is a view of the component's: the component itself does not change.

    base: the component, an object or a handle. component: its name in the graph. adapters: all that were attached to
    the graph. placed: for each of them its patches of this component.
    """

    base: Any  # whatever a graph binds
    component: str
    adapters: tuple[Adapter, ...]
    placed: tuple[tuple[Placed, ...], ...]

    @property
    def type(self) -> Any:  # a class of any library
        """The class of the component."""
        return self.base.type if isinstance(self.base, Lazy) else type(self.base)

    @property
    def space(self) -> LatentSpace | None:
        """The latent space of the component."""
        return self.base.space

    @property
    def layout(self) -> Layout | None:
        """The layout of the component."""
        return self.base.layout

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the component."""
        return config_of(self.base)

    @property
    def lender(self) -> Lender | None:
        """Who leases the component."""
        return self.base.lender if isinstance(self.base, Lazy) else None

    @property
    def leased(self) -> Any:
        """The component: a lender knows only it."""
        return self.base.leased if isinstance(self.base, Lazy) else self

    def ready(self) -> None:
        """Check that the component can be loaded."""
        if isinstance(self.base, Lazy):
            self.base.ready()

    def load(self) -> Any:
        """A view of the loaded component, with all adapters at their strengths."""
        model = cast("nn.Module", self.base.load() if isinstance(self.base, Lazy) else self.base)
        plan = _plan(model, self.component, tuple(a.content for a in self.adapters), self.placed)
        return patched_view(model, plan, torch.tensor([a.strength_of(self.component) for a in self.adapters]))

    def with_strengths(self, strengths: Mapping[str, float]) -> "Adapted":
        """The same with other strengths, by the names of adapters."""
        changed = tuple(replace(a, strength=strengths.get(a.name, a.strength)) for a in self.adapters)
        return replace(self, adapters=changed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapted) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        base = self.base if isinstance(self.base, Lazy) else id(self.base)
        return base, self.component, tuple((a.content, a.strength_of(self.component)) for a in self.adapters)


_PLANS: "weakref.WeakKeyDictionary[nn.Module, dict[object, Plan]]" = weakref.WeakKeyDictionary()
"""The patched layers of each loaded model, by component and adapters: other strengths need no new ones."""
_MOST_PLANS = 8  # of one model


def _plan(
    model: nn.Module, component: str, contents: tuple[PatchSet, ...], placed: Sequence[Sequence[Placed]]
) -> Plan:
    kept = _PLANS.setdefault(model, {})
    key = component, contents
    if (plan := kept.get(key)) is None:
        plan = plan_patches(model, placed)
        while len(kept) >= _MOST_PLANS:
            kept.pop(next(iter(kept)), None)
        kept[key] = plan
    return plan


def config_of(component: Any) -> Mapping[str, Any]:
    """The published config of a component, loaded or not."""
    return component.config if isinstance(component, Lazy) else component.to_config()


def attach(graph: Structure, adapters: Sequence[Adapter]) -> Structure:
    """The graph with adapters on the models that it has bound, beside those that it has already.

    Raises:
        ConfigError: adapters that do not fit the models, two of one name, or a graph without a model for them.
    """
    if wrong := [a for a in adapters if not isinstance(a, Adapter)]:
        text = "Write sf.load_adapter(file) first." if isinstance(wrong[0], str) else ""
        raise ConfigError(f"adapters: needs adapters, got {wrong[0]!r} ({type(wrong[0]).__name__}). {text}".strip())
    attached = _attached(graph)
    both = [*attached, *adapters]
    check_names(both)
    plain = {name: value.base if isinstance(value, Adapted) else value for name, value in graph.bindings.items()}
    known = {name: named for name, value in plain.items() if (named := _names(name, value)) is not None}
    if not known:
        raise ConfigError("The graph has no model bound that adapters change. Load a checkpoint: sf.load(…).")
    placements = [place(adapter, known) for adapter in both]
    bindings = dict(plain)
    for name in known:
        placed = tuple(tuple(p.placed.get(name, ())) for p in placements)
        if any(placed):
            bindings[name] = Adapted(plain[name], name, tuple(both), placed)
    return edited(graph, bindings=bindings)


def set_strengths(graph: Structure, strengths: Mapping[str, float]) -> Structure:
    """The graph with its adapters at other strengths, by name. ConfigError for names that it does not have."""
    known = [adapter.name for adapter in _attached(graph)]
    for name, value in strengths.items():
        if name not in known:
            way = did_you_mean(name, known) if known else "It has none: write pipe.with_adapters(…)."
            raise ConfigError(f"adapters: the graph has no adapter {name!r}. {way}")
        if not isinstance(value, int | float):
            raise ConfigError(f"adapters: {name!r} needs a number. Got {value!r}.")
    changed = {
        name: value.with_strengths(strengths) if isinstance(value, Adapted) else value
        for name, value in graph.bindings.items()
    }
    return edited(graph, bindings=changed)


def adapt(graph: Structure, adapters: Any) -> Structure:  # what a call passes: any value
    """The graph with what `adapters=` says: a list of adapters, one adapter, or strengths by name.

    Raises:
        ConfigError: neither of these; see `attach` and `set_strengths`.
    """
    if isinstance(adapters, Mapping):
        return set_strengths(graph, cast("Mapping[str, float]", adapters))
    chosen = [adapters] if isinstance(adapters, Adapter) else adapters
    if not isinstance(chosen, list | tuple):
        raise ConfigError(f"adapters: needs a list of adapters, or strengths by name. Got {adapters!r}.")
    return attach(graph, cast("Sequence[Adapter]", chosen)) if chosen else graph


def _attached(graph: Structure) -> Iterable[Adapter]:
    """The adapters of a graph, in the order in which they were attached."""
    found = next((value.adapters for value in graph.bindings.values() if isinstance(value, Adapted)), ())
    return list(found)


def _names(name: str, component: Any) -> ModelNames | None:
    """The matrices of a component that adapters may change; None for all others."""
    if name not in DENOISERS and not name.startswith("text_encoder"):
        return None
    kind = component.type if isinstance(component, Lazy) else type(component)
    if kind is None or models.get(kind.__name__) is not kind:
        return None
    return names_of(kind.__name__, config_of(component))
