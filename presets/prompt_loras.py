"""LoRAs that prompts name: `<lora:name:0.8>`, in a folder that the caller chose."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..blocks.prompts.rules import LoraTag, PromptRules, rules_of
from ..components.adapters.adapter import Adapter
from ..components.adapters.attached import attach
from ..components.adapters.names import DENOISERS
from ..graph import ConfigError, LoadError
from ..graph.cache import cached
from ..graph.fields import fields_of
from ..graph.files.inside import path_inside
from ..graph.limits import AboveLimit, check_limit
from ..graph.paths import without_names
from ..graph.structure import Container, Structure
from ..graph.wiring import INPUTS
from ..registry import did_you_mean, prompt_rules
from .adapter import load_adapter

_SUFFIX = ".safetensors"
_KEPT = 16  # files


class _Text(NamedTuple):
    """A text that a call passes to an encoder: the name of the input, its texts, and the encoder's rules."""

    name: str
    texts: Sequence[str]
    rules: PromptRules


def adapt_by_prompts(graph: Structure, values: Mapping[str, Any]) -> Structure:  # Any: values of a call
    """The graph with the LoRAs that the prompts of a call name, for each prompt its own.

    Raises:
        ConfigError: no folder, no such LoRA in it, or a LoRA in a negative prompt.
        UnfitValue: a strength that is no number.
        LoadError: a file that cannot be read.
    """
    read = list(_texts(graph, {name: (name, value) for name, value in values.items()}))
    _check_negative(values, {one.rules for one in read})
    positive = [one for one in read if not one.name.startswith("negative")]
    count = max((len(one.texts) for one in positive), default=0)
    if any(len(one.texts) not in (1, count) for one in positive):
        return graph  # the encoder refuses it
    rows = tuple(_tags(positive, row) for row in range(count))
    if not any(rows):
        return graph
    rows = rows[:1] if len({*rows}) == 1 else rows
    files = {folder_and_tag: _file(*folder_and_tag) for row in rows for folder_and_tag in row}
    adapters = tuple(
        tuple((_read(str(files[one]), one[1].name, *_state(files[one])), one[1]) for one in row) for row in rows
    )

    def make() -> Structure:
        scaled = [[with_strengths(adapter, tag, graph) for adapter, tag in row] for row in adapters]
        return attach(graph, scaled if len(scaled) > 1 else scaled[0])

    return cached(graph, "adapted by prompts", make, adapters)


def _texts(graph: Structure, values: Mapping[str, tuple[str, Any]]) -> Iterator[_Text]:
    """The texts that encoders take from the call, in the graph and in the graphs inside.

    values: of the graph's inputs, each with the name that the call has for it.
    """
    for node, outer in graph.nodes.items():
        block, outside = without_names(outer)
        inner = {new: old for old, new in outside.inputs.items()}
        passed = {
            inner[e.input]: values[e.output]
            for e in graph.edges if e.taker == node and e.giver == INPUTS and e.output in values
        }  # fmt: skip
        if isinstance(block, Container):
            for inside in block.insides():
                yield from _texts(inside.graph, passed)
        elif "prompts" in fields_of(type(block)).config:
            rules: Any = passed.pop("prompts", ("", vars(block)["prompts"]))[1]
            if isinstance(rules, PromptRules) or (isinstance(rules, str) and rules in prompt_rules):
                for name, value in passed.values():
                    texts = [value] if isinstance(value, str) else value
                    if isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts) and texts:
                        yield _Text(name, texts, rules_of(rules))


def _check_negative(values: Mapping[str, Any], rules: set[PromptRules]) -> None:
    for name, value in values.items():
        texts = [value] if isinstance(value, str) else value
        if name.startswith("negative") and isinstance(texts, list | tuple):
            for text in texts:
                if isinstance(text, str) and any(one.lora_tags(text) for one in rules):
                    raise ConfigError(f"{name} names a LoRA, which changes the whole picture. Name it in prompt.")


def _tags(read: Sequence[_Text], row: int) -> tuple[tuple[Path, LoraTag], ...]:
    """The LoRAs of a prompt and the folders of their rules, each once."""
    found: dict[tuple[Path, LoraTag], None] = {}
    for _, texts, rules in read:
        tags = rules.lora_tags(texts[row % len(texts)])
        _check_once(tag.name for tag in tags)
        for tag in tags:
            if (folder := rules.lora_folder) is None:
                raise ConfigError(
                    f"The prompt names the LoRA {tag.name!r}. Pass the folder of its file: "
                    "prompts=sf.prompts.A1111(loras=folder)."
                )
            found[folder, tag] = None
    _check_once(tag.name for _, tag in found)
    return tuple(found)


def _check_once(names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"The prompt names the LoRA {twice[0]!r} twice. Name it once.")


def _file(folder: Path, tag: LoraTag) -> Path:
    """The file of a LoRA, by its stem or by its path in the folder. A name reaches only files that the folder lists."""
    if not folder.is_dir():
        raise ConfigError(f"sf.prompts.A1111(loras=…): {str(folder)!r} is no folder. Pass the folder of the LoRAs.")
    known: dict[str, list[str]] = {}
    count = 0
    for place, _, names in os.walk(folder):
        count += len(names)
        try:
            check_limit("repo_files", count, whole=False)
        except AboveLimit as error:
            raise ConfigError(f"sf.prompts.A1111(loras=…): {str(folder)!r} {error}") from None
        for name in names:
            if name.endswith(_SUFFIX):
                path = Path(place, name).relative_to(folder).as_posix()
                for key in {path.removesuffix(_SUFFIX), name.removesuffix(_SUFFIX)}:
                    known.setdefault(key, []).append(path)
    if tag.name not in known:
        raise ConfigError(f"There is no LoRA {tag.name!r} in {str(folder)!r}. {did_you_mean(tag.name, sorted(known))}")
    if len(known[tag.name]) > 1:
        raise ConfigError(
            f"There are several LoRAs {tag.name!r} in {str(folder)!r}: {', '.join(sorted(known[tag.name]))}. "
            "Write the path without the suffix."
        )
    try:
        return path_inside(known[tag.name][0], folder)
    except LoadError:
        raise ConfigError(
            f"The LoRA {tag.name!r} is a link that leads out of {str(folder)!r}. Put the file into the folder, or pass "
            "adapters=[sf.load_adapter(file)]."
        ) from None


def _state(file: Path) -> tuple[int, int]:
    """The time and size of a file: a changed one is read again."""
    state = file.stat()
    return state.st_mtime_ns, state.st_size


@lru_cache(maxsize=_KEPT)
def _read(file: str, name: str, time: int, size: int) -> Adapter:
    """The adapter of a file, the same object at each call. time, size: of the file, so that they are in the key."""
    return load_adapter(file, name=name)


def with_strengths(adapter: Adapter, tag: LoraTag, graph: Structure) -> Adapter:
    """The adapter with the strengths of a tag."""
    if tag.text_encoders == tag.denoiser:
        return adapter.scaled(tag.denoiser)
    strengths: dict[str, Any] = {name: tag.denoiser for name in graph.components if name in DENOISERS}  # Any: floats
    strengths |= {name: tag.text_encoders for name in graph.components if name.startswith("text_encoder")}
    return adapter.scaled(**strengths)
