"""The adapters of a graph: how they are attached, follow a swapped component, and get other strengths."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ...graph.edits import edited
from ...graph.errors import ConfigError, GraphFileError
from ...graph.fields import Adapters, SavedAdapter
from ...graph.saving import saving_file
from ...graph.structure import Structure
from ...registry import did_you_mean
from ...registry.log import LOG
from ..storage.fits import shown_names
from ..storage.weights import write_safetensors
from .adapted import Adapted, Rows
from .adapter import Adapter, check_names, check_strength
from .block_strengths import ENCODERS, check_blocks
from .embedded import AdaptedTokenizer, EncoderWords, report, tokenizer_of, words_of
from .embedding import Embedding
from .embedding_layouts import tensors_of
from .known_models import names_in
from .names import DENOISERS, ModelNames
from .over import config_of, type_of
from .patch_set import PatchSet
from .placing import Placed, Placement, place
from .reading import PEFT_CONFIG, PEFT_WEIGHTS

_FILE, _EMBEDDING_FILE = "adapter.safetensors", "embedding.safetensors"


@dataclass(frozen=True, eq=False, repr=False)
class AttachedAdapters(Adapters):
    """Adapters on the models of a graph. A graph that binds another model gets a new value, by `fitted`.

    rows: the adapters. models: the names of the matrices of each model, by component; those of a model that the graph
    had before stay until it binds another one. placed: the patches of each component. embeddings: those that were
    attached, and those in files of the adapters.
    """

    rows: Rows
    models: Mapping[str, ModelNames]
    placed: Mapping[str, Mapping[PatchSet, tuple[Placed, ...]]]
    embeddings: tuple[Embedding, ...] = ()

    @classmethod
    def of(
        cls,
        rows: Rows,
        models: Mapping[str, ModelNames],
        bindings: Mapping[str, Any],
        embeddings: tuple[Embedding, ...] = (),
    ) -> "AttachedAdapters":
        """These adapters on these models. ConfigError where they do not fit, and for two adapters of one name."""
        for row in rows:
            check_names(row)
        if not models:
            raise ConfigError("The graph has no model bound that adapters change. Load a checkpoint: sf.load(…).")
        for adapter in _all(rows):
            if any(name in DENOISERS for name in models):  # a part of a graph may have none
                check_blocks(adapter.name, adapter.blocks, (path for names in models.values() for path in names.shapes))
            _check_components(adapter, models)
        _words(embeddings, bindings)
        return cls(rows, models, _placed(rows, models), embeddings)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the adapters, read from their files. A check was made when they were attached here."""
        return _attached_again, (self.rows, self.models, self.embeddings)

    @property
    def prompts(self) -> int:
        """The number of prompts with adapters of their own; 1 if all prompts have the same."""
        return len(self.rows)

    def fitted(self, bindings: Mapping[str, Any]) -> "AttachedAdapters":
        """The same adapters for a graph with these bindings. ConfigError if they do not fit its models."""
        found = {**self.models, **names_in(bindings)}
        return self if found == self.models else AttachedAdapters.of(self.rows, found, bindings, self.embeddings)

    def on(self, bindings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The bindings, with the adapters on the models. They are `fitted` to these bindings."""
        words = _words(self.embeddings, bindings)
        changed: dict[str, Any] = {}
        for name in self.models:
            placed, own = self.placed.get(name, {}), words.get(name)
            if bindings.get(name) is not None and (placed or own):
                changed[name] = Adapted(bindings[name], name, self.rows, placed, self.embeddings, own)
            tokenizer = tokenizer_of(name)
            if own and bindings.get(tokenizer) is not None:
                changed[tokenizer] = AdaptedTokenizer(bindings[tokenizer], self.embeddings, own)
        return {**bindings, **changed}

    @property
    def names(self) -> Sequence[str]:
        """The names of the adapters, each once."""
        return list(dict.fromkeys(adapter.name for adapter in _all(self.rows)))

    @property
    def widens(self) -> bool:
        """Whether a model has more channels with these adapters."""
        return any(p.columns for own in self.placed.values() for patches in own.values() for p in patches)

    def alone(self) -> "AttachedAdapters | None":
        """The embeddings without the other adapters; None if there are none."""
        return replace(self, rows=((),), placed={}) if self.embeddings else None

    def saved(self, graph: Structure) -> Sequence[SavedAdapter]:
        """The adapters and embeddings for the file of their graph. Files that are copied have their embeddings.

        Raises:
            GraphFileError: adapters that differ between prompts.
        """
        if len(self.rows) > 1:
            raise GraphFileError(
                f"has adapters for {len(self.rows)} prompts, which only a call can have. Save the graph without them, "
                "and pass adapters= in the call."
            )
        in_files = {one for a in _all(self.rows) if _is_copied(a) for one in a.content.embeddings}
        alone = [_saved_embedding(one) for one in self.embeddings if one not in in_files]
        return [*(_saved(adapter, graph) for adapter in _all(self.rows)), *alone]

    def __repr__(self) -> str:
        rows = ["[" + ", ".join(map(repr, (*row, *self.embeddings))) + "]" for row in self.rows]
        return rows[0] if len(rows) == 1 else f"[{', '.join(rows)}]"


def _attached_again(
    rows: Rows, models: Mapping[str, ModelNames], embeddings: tuple[Embedding, ...]
) -> AttachedAdapters:
    """The adapters of a pickle."""
    return AttachedAdapters(rows, models, _placed(rows, models), embeddings)


def _placed(rows: Rows, models: Mapping[str, ModelNames]) -> dict[str, dict[PatchSet, tuple[Placed, ...]]]:
    """The patches of each component, by the file that has them."""
    placements = {content: place(content, models, name) for content, name in _contents(rows).items()}
    return {
        component: {c: tuple(p.placed[component]) for c, p in placements.items() if component in p.placed}
        for component in models
    }


def attach(graph: Structure, adapters: Sequence[Any]) -> Structure:
    """The graph with adapters on the models that it has bound, beside those that it has already.

    Args:
        graph: any graph.
        adapters: adapters, or one list of adapters for each prompt.

    Raises:
        ConfigError: adapters that do not fit the models, two of one name, or a graph without a model for them.
    """
    mixed = _rows(adapters)
    rows: Rows = tuple(tuple(one for one in row if isinstance(one, Adapter)) for row in mixed)
    before = _attached(graph)
    own = before.rows if before else ((),)
    if len(own) > 1 and len(rows) > 1 and len(own) != len(rows):
        raise ConfigError(f"adapters: has {len(rows)} lists, and the graph has adapters for {len(own)} prompts.")
    count = max(len(own), len(rows))
    both: Rows = tuple((*own[i % len(own)], *rows[i % len(rows)]) for i in range(count))
    known = {**(before.models if before else {}), **names_in(graph.bindings)}
    bundled = [one for adapter in _all(both) for one in adapter.content.embeddings]
    passed = [one for row in mixed for one in row if isinstance(one, Embedding)]
    embeddings = tuple(dict.fromkeys([*(before.embeddings if before else ()), *bundled, *passed]))
    made = AttachedAdapters.of(both, known, graph.bindings, embeddings)
    for content, name in _contents(rows).items():
        _report(name, content, place(content, known, name))
    for embedding in passed:
        report(embedding, text_encoders_in(graph.bindings))
    return edited(graph, adapters=made)


def adapt(graph: Structure, adapters: Any) -> Structure:  # any value, from a call
    """The graph with the value of `adapters=`: adapters, a list of them for each prompt, or strengths by name.

    Raises:
        ConfigError: neither of these; see `attach` and `set_strengths`.
    """
    if isinstance(adapters, Mapping):
        return set_strengths(graph, cast("Mapping[str, Any]", adapters))
    chosen = [adapters] if isinstance(adapters, Adapter | Embedding) else adapters
    if not isinstance(chosen, list | tuple):
        raise ConfigError(
            f"adapters: needs a list of adapters, or strengths by name. Got {adapters!r} ({type(adapters).__name__})."
            f"{_way(adapters)}"
        )
    return attach(graph, cast("Sequence[Any]", chosen)) if chosen else graph


def set_strengths(graph: Structure, strengths: Mapping[str, Any]) -> Structure:
    """The graph with its adapters at other strengths, by name. ConfigError for names that it does not have."""
    before = _attached(graph)
    known = before.names if before else ()
    for name, value in strengths.items():
        if before and name not in known and any(name in (one.name, one.token) for one in before.embeddings):
            raise ConfigError(
                f"adapters: {name!r} is an embedding, which has no strength. Write the weight of its word in the "
                "prompt."
            )
        if name not in known:
            way = did_you_mean(name, known) if known else "It has none: write pipe.with_adapters(…)."
            raise ConfigError(f"adapters: the graph has no adapter {name!r}. {way}")
        for component, factor in value.items() if isinstance(value, Mapping) else [("", value)]:
            check_strength(f"adapters: {name!r}{f': {component!r}' if component else ''}", factor)
    if before is None:
        return graph
    rows = tuple(tuple(_at(a, strengths.get(a.name, a.strength)) for a in row) for row in before.rows)
    for adapter in _all(rows):
        _check_components(adapter, before.models)
    return edited(graph, adapters=replace(before, rows=rows))


def _at(adapter: Adapter, strength: float | Mapping[str, float]) -> Adapter:
    """The adapter at a strength, or with one for each component."""
    if isinstance(strength, Mapping):
        return replace(adapter, strength=1.0, by_component=dict(strength))
    return replace(adapter, strength=strength)


def _check_components(adapter: Adapter, models: Mapping[str, ModelNames]) -> None:
    """ConfigError for the strength of a component that the graph does not have.

    It may lack a text encoder: lists of block strengths name all of them. A part of a graph may have no denoiser.
    """
    absent = ENCODERS if any(name in DENOISERS for name in models) else (*ENCODERS, *DENOISERS)
    for name in adapter.by_component:
        if name not in models and name not in absent:
            raise ConfigError(f"{adapter.name}: the graph has no component {name!r}. {did_you_mean(name, models)}")


def _is_copied(adapter: Adapter) -> bool:
    """Whether a save copies the file of an adapter. One without a file, or with one of pickles, is written."""
    file = adapter.content.file
    return file is not None and file.suffix == ".safetensors" and file.is_file()


def _saved(adapter: Adapter, graph: Structure) -> SavedAdapter:
    settings = {
        "name": adapter.name, "strength": adapter.strength, "by_component": dict(adapter.by_component),
        "blocks": dict(adapter.blocks), "window": list(adapter.window), "curve": [list(p) for p in adapter.curve],
    }  # fmt: skip
    file = adapter.content.file
    if file is None or not _is_copied(adapter):
        plain = Adapter(adapter.name, replace(adapter.content, embeddings=()))

        def write(folder: Path) -> None:
            plain.save(folder / _FILE, pipe=graph)

        return SavedAdapter(settings, _FILE, write)
    config = file.with_name(PEFT_CONFIG)
    name, beside = (PEFT_WEIGHTS, [config]) if file.name == PEFT_WEIGHTS and config.is_file() else (_FILE, [])

    def copy(folder: Path) -> None:
        shutil.copyfile(file, folder / name)
        for one in beside:
            shutil.copyfile(one, folder / one.name)

    return SavedAdapter(settings, name, copy)


def _saved_embedding(embedding: Embedding) -> SavedAdapter:
    tensors = tensors_of(embedding)

    def write(folder: Path) -> None:
        with saving_file(folder / _EMBEDDING_FILE) as draft:
            write_safetensors(tensors, draft, {})

    return SavedAdapter({"name": embedding.name, "token": embedding.token}, _EMBEDDING_FILE, write)


def _attached(graph: Structure) -> AttachedAdapters | None:
    return cast("AttachedAdapters | None", graph.adapters)  # a graph room knows only the base class


def _all(rows: Rows) -> Iterable[Adapter]:
    return (adapter for row in rows for adapter in row)


def _contents(rows: Rows) -> Mapping[PatchSet, str]:
    """The files of patches, each with the name of its first adapter."""
    return {adapter.content: adapter.name for row in reversed(rows) for adapter in reversed(row)}


def _rows(adapters: Sequence[Any]) -> tuple[tuple[Adapter | Embedding, ...], ...]:
    """One row for all prompts, or one for each. ConfigError for anything but adapters and embeddings."""
    lists = [isinstance(one, list | tuple) for one in adapters]
    rows: Sequence[Any] = adapters if any(lists) and all(lists) else [adapters]
    if any(lists) and not all(lists):
        one = adapters[lists.index(False)]
        raise ConfigError(
            f"adapters: needs adapters, or one list of adapters for each prompt. Got lists and {one!r} "
            f"({type(one).__name__})."
        )
    for row in rows:
        for one in row:
            if not isinstance(one, Adapter | Embedding):
                way = _way(one)
                raise ConfigError(f"adapters: needs adapters. Got {one!r} ({type(one).__name__}).{way}")
    return tuple(tuple(row) for row in rows)


def _way(passed: Any) -> str:  # whatever the user passes
    return " Write sf.load_adapter(file) first." if isinstance(passed, str | Path) else ""


def _report(name: str, content: PatchSet, found: Placement) -> None:
    """Log the patches that change nothing, and the notes on the file."""
    for names, why in ((found.absent, "are for a model that the graph does not have"), (found.empty, "are zero")):
        if names:
            LOG.info("%s: %d of its patches %s: %s.", name, len(names), why, shown_names(names))
    for note in content.notes:
        LOG.info("%s: %s", name, note)


def _words(embeddings: Sequence[Embedding], bindings: Mapping[str, Any]) -> Mapping[str, EncoderWords]:
    """The words of embeddings for each text encoder. ConfigError where they fit none."""
    return words_of(embeddings, text_encoders_in(bindings)) if embeddings else {}


def text_encoders_in(bindings: Mapping[str, Any]) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """The class and the config of each text encoder that adapters may change."""
    return {
        name: (type_of(bindings[name]).__name__, config_of(bindings[name]))
        for name in names_in(bindings) if name not in DENOISERS
    }  # fmt: skip
