"""Components with adapters. A graph binds them in place of the components."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ...graph.edits import edited
from ...graph.errors import ConfigError, GraphFileError
from ...graph.fields import Lazy
from ...graph.layout import Layout
from ...graph.lender import Lender
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ...graph.space import LatentSpace
from ...graph.structure import Structure
from ...registry import counted, did_you_mean, models
from ...registry.log import LOG
from ..schedulers.schedule import Step
from ..storage.fits import shown_names
from .adapter import Adapter, check_names, check_strength
from .attach import Plan, patched_view, plan_patches
from .layers import Strengths
from .names import DENOISERS, ModelNames, names_of
from .patch_set import PatchSet
from .placing import Placed, Placement, place

M = TypeVar("M", bound=nn.Module)
Rows = tuple[tuple[Adapter, ...], ...]
"""The adapters of each prompt; a single row is that of all prompts."""


@dataclass(frozen=True, eq=False)
class Adapted(Lazy):
    """A component with adapters. Its object is a view of the component's: the component itself does not change.

    base: the component, an object or a handle. component: its name in the graph. rows: the adapters. placed: for each
    file of patches among them, the patches of this component.
    """

    base: Any  # whatever a graph binds
    component: str
    rows: Rows
    placed: Mapping[PatchSet, tuple[Placed, ...]]

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

    def content_key(self) -> str | None:
        """The key of the component, and of its adapters with their strengths."""
        try:
            rows = [
                [(_key_of(a.content), a.strength, a.by_component, a.window, a.curve) for a in row] for row in self.rows
            ]
            return digest(content_key(self.base), self.component, content_key(rows))
        except NoContentKey:
            return None

    def ready(self) -> None:
        """Check that the component can be loaded."""
        if isinstance(self.base, Lazy):
            self.base.ready()

    def to_json(self) -> Mapping[str, Any]:
        """GraphFileError: graph files name no adapters yet."""
        names = ", ".join(dict.fromkeys(adapter.name for row in self.rows for adapter in row))
        raise GraphFileError(
            f"has adapters ({names}), which a file cannot name. Save pipe.merged(), or the graph without adapters."
        )

    def load(self) -> Any:
        """A view of the loaded component, with all adapters at their strengths."""
        model = cast("nn.Module", self.base.load() if isinstance(self.base, Lazy) else self.base)
        attached = Attached(model, plan_of(self, model), self)
        return attached.view(Strengths(self.strengths()))

    def strengths(self, step: Step | None = None) -> Tensor:
        """The strength of each file of patches: (files,), or (rows, files) where rows differ."""
        table = [
            [sum(a.strength_of(self.component, step) for a in row if a.content is content) for content in self.placed]
            for row in self.rows
        ]
        return torch.tensor(table if table[1:] else table[0], dtype=torch.float32)

    @property
    def varies(self) -> bool:
        """Whether the strengths depend on the step, or on the row."""
        return len(self.rows) > 1 or any(adapter.varies for row in self.rows for adapter in row)

    def with_strengths(self, strengths: Mapping[str, float]) -> "Adapted":
        """The same with other strengths, by the names of adapters."""
        return replace(self, rows=tuple(
            tuple(replace(a, strength=strengths.get(a.name, a.strength)) for a in row) for row in self.rows
        ))  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapted) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        base = self.base if isinstance(self.base, Lazy) else id(self.base)
        rows = tuple(
            tuple((a.content, a.strength_of(self.component), a.window, a.curve) for a in row) for row in self.rows
        )
        return base, self.component, rows


@dataclass(frozen=True, eq=False)
class Attached:
    """The adapters of a view. A run reads it to change their strengths from step to step."""

    model: nn.Module
    plan: Plan
    adapted: Adapted

    def view(self, strengths: Strengths) -> nn.Module:
        """A view of the model with the patches at these strengths."""
        made = patched_view(self.model, self.plan, strengths)
        made.__dict__[_ATTACHED] = self
        return made


_ATTACHED = "attached_adapters"


class RunStrengths:
    """The strengths of one run's view. `set` chooses those of the next forward."""

    def __init__(self, adapted: Adapted, strengths: Strengths) -> None:
        self._adapted, self._strengths = adapted, strengths

    def set(self, step: Step, rows: Sequence[int]) -> None:
        """Set the strengths for a forward of several passes.

        Args:
            step: of all passes.
            rows: the number of rows of each pass. They are the pictures of the prompts, in the order of the prompts.

        Raises:
            ValueError: a number of rows that is no multiple of the number of prompts.
        """
        table = self._adapted.strengths(step)
        if table.ndim > 1:
            prompts = len(table)
            if wrong := next((n for n in rows if n % prompts), 0):
                raise ValueError(
                    f"adapters= has adapters for {counted(prompts, 'prompt')}, and a pass has {counted(wrong, 'row')}. "
                    "Pass one list for each prompt."
                )
            table = torch.cat([table.repeat_interleave(n // prompts, 0) for n in rows])
        self._strengths.values = table


def for_run(model: M) -> tuple[M, RunStrengths | None]:
    """A model for one run: where its adapters' strengths differ between steps or rows, a view with its own strengths.

    Args:
        model: any model, with adapters or without.
    """
    attached = model.__dict__.get(_ATTACHED)
    if not isinstance(attached, Attached) or not attached.adapted.varies:
        return model, None
    strengths = Strengths(attached.adapted.strengths())
    return cast("M", attached.view(strengths)), RunStrengths(attached.adapted, strengths)


_KEYS: "weakref.WeakKeyDictionary[PatchSet, str]" = weakref.WeakKeyDictionary()


def _key_of(content: PatchSet) -> str:
    """The content key of all patches of a file, made once."""
    if content not in _KEYS:
        _KEYS[content] = content_key(content.patches)
    return _KEYS[content]


_PLANS: "weakref.WeakKeyDictionary[nn.Module, dict[object, Plan]]" = weakref.WeakKeyDictionary()
"""The patched layers of each loaded model, by component and adapters: other strengths need no new ones."""
_MOST_PLANS = 8  # of one model


def plan_of(adapted: Adapted, model: nn.Module) -> Plan:
    """The patched layers of a loaded model, made once for its adapters."""
    kept = _PLANS.setdefault(model, {})
    key = adapted.component, tuple(adapted.placed)
    if (plan := kept.get(key)) is None:
        plan = plan_patches(model, list(adapted.placed.values()))
        while len(kept) >= _MOST_PLANS:
            kept.pop(next(iter(kept)), None)
        kept[key] = plan
    return plan


def config_of(component: Any) -> Mapping[str, Any]:
    """The published config of a component, loaded or not."""
    return component.config if isinstance(component, Lazy) else component.to_config()


def attach(graph: Structure, adapters: Sequence[Any]) -> Structure:
    """The graph with adapters on the models that it has bound, beside those that it has already.

    Args:
        graph: any graph.
        adapters: adapters, or one list of adapters for each prompt.

    Raises:
        ConfigError: adapters that do not fit the models, two of one name, or a graph without a model for them.
    """
    rows = _rows(adapters)
    before = attached_rows(graph)
    if len(before) > 1 and len(rows) > 1 and len(before) != len(rows):
        raise ConfigError(f"adapters: has {len(rows)} lists, and the graph has adapters for {len(before)} prompts.")
    count = max(len(before), len(rows))
    both: Rows = tuple((*before[i % len(before)], *rows[i % len(rows)]) for i in range(count))
    for row in both:
        check_names(row)
    plain = {name: value.base if isinstance(value, Adapted) else value for name, value in graph.bindings.items()}
    known = {name: named for name, value in plain.items() if (named := _names(name, value)) is not None}
    if not known:
        raise ConfigError("The graph has no model bound that adapters change. Load a checkpoint: sf.load(…).")
    contents = dict.fromkeys(adapter.content for row in both for adapter in row)
    first = {adapter.content: adapter for row in reversed(both) for adapter in reversed(row)}
    placements = {content: place(content, known, first[content].name) for content in contents}
    for content, found in placements.items():
        _report(first[content], found)
    bindings = dict(plain)
    for name in known:
        placed = {content: tuple(p.placed[name]) for content, p in placements.items() if name in p.placed}
        if placed:
            bindings[name] = Adapted(plain[name], name, both, placed)
    return edited(graph, bindings=bindings)


def _report(adapter: Adapter, found: Placement) -> None:
    """Log the patches that change nothing, and the notes on the file."""
    for names, why in ((found.absent, "are for a model that the graph does not have"), (found.empty, "are zero")):
        if names:
            LOG.info("%s: %d of its patches %s: %s.", adapter.name, len(names), why, shown_names(names))
    for note in adapter.notes:
        LOG.info("%s: %s", adapter.name, note)


def _rows(adapters: Sequence[Any]) -> Rows:
    """One row for all prompts, or one for each. ConfigError for anything but adapters."""
    lists = [isinstance(one, list | tuple) for one in adapters]
    rows: Sequence[Any] = adapters if any(lists) and all(lists) else [adapters]
    for row in rows:
        for one in row:
            if not isinstance(one, Adapter):
                way = " Write sf.load_adapter(file) first." if isinstance(one, str) else ""
                way = " Pass adapters, or one list for each prompt." if any(lists) and not all(lists) else way
                raise ConfigError(f"adapters: needs adapters. Got {one!r} ({type(one).__name__}).{way}")
    return tuple(tuple(row) for row in rows)


def set_strengths(graph: Structure, strengths: Mapping[str, Any]) -> Structure:
    """The graph with its adapters at other strengths, by name. ConfigError for names that it does not have."""
    known = list(dict.fromkeys(adapter.name for row in attached_rows(graph) for adapter in row))
    for name, value in strengths.items():
        if name not in known:
            way = did_you_mean(name, known) if known else "It has none: write pipe.with_adapters(…)."
            raise ConfigError(f"adapters: the graph has no adapter {name!r}. {way}")
        check_strength(f"adapters: {name!r}", value)
    changed = {
        name: value.with_strengths(strengths) if isinstance(value, Adapted) else value
        for name, value in graph.bindings.items()
    }
    return edited(graph, bindings=changed)


def adapt(graph: Structure, adapters: Any) -> Structure:  # what a call passes: any value
    """The graph with what `adapters=` says: adapters, a list of them for each prompt, or strengths by name.

    Raises:
        ConfigError: neither of these; see `attach` and `set_strengths`.
    """
    if isinstance(adapters, Mapping):
        return set_strengths(graph, cast("Mapping[str, Any]", adapters))
    chosen = [adapters] if isinstance(adapters, Adapter) else adapters
    if not isinstance(chosen, list | tuple):
        raise ConfigError(
            f"adapters: needs a list of adapters, or strengths by name. Got {adapters!r} ({type(adapters).__name__})."
        )
    return attach(graph, cast("Sequence[Any]", chosen)) if chosen else graph


def attached_rows(graph: Structure) -> Rows:
    """The adapters of a graph, in the order in which they were attached; a single empty row if it has none."""
    return next((value.rows for value in graph.bindings.values() if isinstance(value, Adapted)), ((),))


def _names(name: str, component: Any) -> ModelNames | None:
    """The matrices of a component that adapters may change; None for all others."""
    if name not in DENOISERS and not name.startswith("text_encoder"):
        return None
    kind = component.type if isinstance(component, Lazy) else type(component)
    if kind is None or models.get(kind.__name__) is not kind:
        return None
    return names_of(kind.__name__, config_of(component))
