"""The files of a component: those that its class reads, and entries that its configs must not have."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...graph.errors import LoadError
from ...registry import guiders
from ..image_processor import FILE, ImageProcessor
from ..models.base import Model
from ..schedulers.base import Scheduler
from ..storage.files import read_json
from ..storage.location import Location, fetch_small_files
from .tokenizer_base import FastTokenizer

_TOKENIZER_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_NO_CONFIGS = ("graph.json", "model_index.json", "modular_config.json", "modular_model_index.json")
"""JSON files that may be in the folder of a component and belong to a pipeline around it."""
VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Files of tokens. No reader looks for code in these, and their keys are the tokens of a language."""


def small_files_of(kind: Any) -> tuple[str, ...] | None:  # a class of any library
    """The names of the files that a class reads beside its weights, present or not. None for an unknown class."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, FastTokenizer):
        return (*(name for group in kind.files for name in group), *_TOKENIZER_CONFIGS)
    if is_of_transformers(kind):
        return _files_of_transformers(kind)
    if issubclass(kind, ImageProcessor):
        return (FILE,)
    if issubclass(kind, Model):
        return ("config.json",)
    if issubclass(kind, Scheduler):
        return ("scheduler_config.json",)
    return ("guider_config.json",) if guiders.name_of(kind) is not None else None


def is_of_transformers(kind: Any) -> bool:  # a class of any library
    """Whether the transformers library reads the files of a class: it or a base of it is defined there."""
    bases = kind.__mro__ if isinstance(kind, type) else ()
    return any(base.__module__.partition(".")[0] == "transformers" for base in bases)


def _files_of_transformers(kind: Any) -> tuple[str, ...]:  # a class of transformers
    if hasattr(kind, "state_dict"):
        return ("config.json",)
    vocabularies: Mapping[str, str] = getattr(kind, "vocab_files_names", {})
    tokenizer = ("tokenizer.json", *vocabularies.values(), *_TOKENIZER_CONFIGS, "chat_template.jinja")
    processor = (FILE, "processor_config.json")
    return tuple(dict.fromkeys(tokenizer if vocabularies else (*processor, *tokenizer)))


def refuse_code(location: Location, subfolder: str) -> None:
    """Raise LoadError if a config in the folder of a component names code, at any depth.

    Nothing of this library reads these entries. Other libraries would import or download what they name.
    """
    folder = fetch_small_files(location, subfolder)
    for name in sorted(location.names(subfolder)):
        if name.endswith(".json") and ".index." not in name and name not in (*_NO_CONFIGS, *VOCABULARIES):
            for place, value in named_code(_any_json(folder / name)):
                raise LoadError(
                    f"{folder / name}: {place} names code ({_short(value)}), and no code beside a component is run. "
                    "Use a folder without it; for a class of your own, bind an object."
                )


def named_code(data: Any, at: str = "") -> Iterator[tuple[str, Any]]:  # JSON values
    """The entries of a config, at any depth, that name code to import or to download."""
    todo: list[tuple[str, Any]] = [(at, data)]
    while todo:
        place, found = todo.pop()
        items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
        for key, value in items:
            inner = f"{place}.{key}" if place else str(key)
            if _names_code(key, value):
                yield inner, value
            todo.append((inner, value))


def _names_code(key: object, value: object) -> bool:
    if key in ("auto_map", "custom_pipelines"):
        return not isinstance(value, int | float | None)  # else a token of that name with its id
    if isinstance(key, str) and key.removesuffix("_internal").endswith("_implementation"):
        # "owner/name" is a kernel of the Hub, which transformers downloads and runs.
        return any(isinstance(text, str) and "/" in text for text in _leaves(value))
    return key == "use_pretrained_backbone" and bool(value)


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


def _any_json(path: Path) -> Any:  # JSON values
    try:
        return read_json(path)
    except LoadError:
        # What is wrong with a file is reported by its reader; here it has no entry.
        return {}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:77]}…"
