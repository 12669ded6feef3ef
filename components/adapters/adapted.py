"""Components with adapters. A graph binds them in place of the components."""

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...graph.cache import cached
from ...graph.fields import Derivation, Lazy
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ..models.base import Model
from ..models.token_table import with_rows
from ..schedulers.schedule import Step
from .adapter import Adapter
from .attach import ModelPatches, numbers_of, patched_view, patches_of
from .block_strengths import factor_of
from .embedded import EncoderWords, embeddings_key
from .embedding import Embedding
from .layers import Strengths
from .names import names_of
from .over import OverComponent, config_of
from .patch_set import PatchSet
from .placing import Placed
from .widening import wide_keys

Rows = tuple[tuple[Adapter, ...], ...]
"""The adapters of each prompt; a single row is that of all prompts."""


@dataclass(frozen=True, eq=False)
class Adapted(OverComponent):
    """A component with adapters. Its object is a view of the component's: the component itself does not change.

    component: its name in the graph. rows: the adapters. placed: for each file of patches among them, the patches of
    this component. embeddings: those of the graph. words: their words for this component, if it is a text encoder.
    """

    component: str
    rows: Rows
    placed: Mapping[PatchSet, tuple[Placed, ...]]
    embeddings: tuple[Embedding, ...] = ()
    words: EncoderWords | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the component, with more channels where adapters widen its input."""
        own = config_of(self.base)
        return {**own, **keys} if (keys := self.wide_keys(own)) else own

    def wide_keys(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The keys of the component's config that differ with the adapters."""
        return wide_keys(config, (item.columns for items in self.placed.values() for item in items))

    def content_key(self) -> str | None:
        """The key of the component, and of its adapters with their strengths."""
        try:
            rows = [
                [(_key_of(a.content), a.strength, a.by_component, a.blocks, a.window, a.curve) for a in row]
                for row in self.rows
            ]
            return digest(
                content_key(self.base), self.component, content_key(rows), embeddings_key(self.embeddings)
            )  # fmt: skip
        except NoContentKey:
            return None

    @cached_property
    def patches(self) -> Lazy | None:
        """The patches of the component's layers, if the lender of the component keeps them."""
        if not self.placed or not isinstance(self.base, Lazy):
            return None
        names = names_of(self.type.__name__, config_of(self.base))
        return self.base.derived(
            Derivation("patches", f"{self.component} {self._contents}", self._make_patches,
                       lambda: numbers_of(chain.from_iterable(self.placed.values()), names))
        )  # fmt: skip

    @property
    def leased(self) -> Sequence[Lazy]:
        """The component itself and its patches."""
        return super().leased if self.patches is None else (*super().leased, self.patches)

    @property
    def _contents(self) -> tuple[int, ...]:
        return tuple(content.number for content in self.placed)

    def _make_patches(self, model: nn.Module) -> ModelPatches:
        return patches_of(model, list(self.placed.values()))

    def patches_on(self, model: nn.Module) -> ModelPatches:
        """The patches of the layers of the loaded component, made once for its adapters.

        The lender keeps them where there is one, else this process: those of the newest sets of adapters.
        """
        if self.patches is not None:
            return self.patches.load()
        kept = _PATCHES.setdefault(model, {})
        key = self.component, self._contents, str(next((p.device for p in model.parameters()), ""))
        if (patches := kept.get(key)) is None:
            patches = self._make_patches(model)
            while len(kept) >= _MOST_SETS:
                kept.pop(next(iter(kept)), None)
            kept[key] = patches
        return patches

    def load(self) -> Any:
        """A view of the loaded component, with all adapters at their strengths."""
        model = cast("nn.Module", self.loaded_base())
        if self.placed:
            attached = Attached(model, self.patches_on(model), self)
            model = attached.view(attached.strengths())
        if self.words is not None and self.words.extra is not None:
            model = with_rows(model, self.words.path, self.words.extra)
        return model

    def strengths(self, step: Step | None = None, path: str = "", files: Collection[PatchSet] | None = None) -> Tensor:
        """The strength of each file of patches for a layer: (files,), or (rows, files) where rows differ.

        files: the files of the columns; None for those of these adapters.
        """
        columns = self.placed if files is None else files
        table = [
            [sum(a.strength_of(self.component, step, path) for a in row if a.content is content) for content in columns]
            for row in self.rows
        ]
        return torch.tensor(table if table[1:] else table[0], dtype=torch.float32)

    @property
    def varies(self) -> bool:
        """Whether the strengths depend on the step, or on the row."""
        return len(self.rows) > 1 or any(adapter.varies for row in self.rows for adapter in row)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapted) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        base = self.base if isinstance(self.base, Lazy) else id(self.base)
        rows = tuple(
            tuple((a.content, a.strength_of(self.component), tuple(a.blocks.items()), a.window, a.curve) for a in row)
            for row in self.rows
        )
        return base, self.component, rows, self.embeddings


@dataclass(frozen=True, eq=False)
class Attached:
    """The adapters of a view. A run reads it to change their strengths from step to step."""

    model: nn.Module
    patches: ModelPatches
    adapted: Adapted

    def strengths(self) -> Mapping[str, Strengths]:
        """New strengths for a view, by the paths of the layers. Layers with equal strengths share one object."""
        found: dict[str, Strengths] = {}
        for paths in cached(self.adapted, "equal layers", self._equal_layers):
            found |= dict.fromkeys(paths, Strengths(self.adapted.strengths(path=paths[0])))
        return found

    def _equal_layers(self) -> Sequence[Sequence[str]]:
        """The layers in which each adapter has one factor."""
        adapters = [adapter for row in self.adapted.rows for adapter in row]
        by_factors: dict[tuple[float, ...], list[str]] = {}
        for path in self.patches.layers:
            by_factors.setdefault(tuple(factor_of(adapter.blocks, path) for adapter in adapters), []).append(path)
        return list(by_factors.values())

    @property
    def wide_keys(self) -> Mapping[str, Any]:
        """The keys of the model's config that differ with the adapters."""
        return self.adapted.wide_keys(self.model.to_config()) if isinstance(self.model, Model) else {}

    def view(self, strengths: Mapping[str, Strengths]) -> nn.Module:
        """A view of the model with the patches at these strengths, by the paths of the layers."""
        made = patched_view(self.model, self.patches, strengths)
        set_wide_config(made, self.adapted)
        made.__dict__[_ATTACHED] = self
        return made


def set_wide_config(made: nn.Module, adapted: Adapted) -> None:
    """Give a view or a copy of a model the config that it has with adapters that widen its input."""
    if isinstance(made, Model) and (keys := adapted.wide_keys(made.to_config())):
        model = cast("Model[Any]", made)
        model.__dict__["_config"] = type(model.config).read(type(model).__name__, {**model.config.to_dict(), **keys})


_ATTACHED = "attached_adapters"


def attached_to(model: nn.Module) -> Attached | None:
    """The adapters of a view, and the model that it is a view of; None for a model without adapters."""
    attached = model.__dict__.get(_ATTACHED)
    return attached if isinstance(attached, Attached) else None


_KEYS: "weakref.WeakKeyDictionary[PatchSet, str]" = weakref.WeakKeyDictionary()


def _key_of(content: PatchSet) -> str:
    """The content key of all patches of a file, made once."""
    if content not in _KEYS:
        _KEYS[content] = content_key(content.patches)
    return _KEYS[content]


_PATCHES: "weakref.WeakKeyDictionary[nn.Module, dict[object, ModelPatches]]" = weakref.WeakKeyDictionary()
"""The patches of each model that no lender has, by component, adapters and device: other strengths need no new ones."""
_MOST_SETS = 8  # of one model
