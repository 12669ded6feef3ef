"""`sf.load_adapter`: LoRA and its relatives from a file, a folder or a repo."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from ..components.adapters.adapter import Adapter, check_strength
from ..components.adapters.embedding import Embedding
from ..components.adapters.embedding_files import read_content
from ..components.adapters.embedding_layouts import Origin, embedding_of
from ..components.adapters.reading import PEFT_CONFIG, PEFT_WEIGHTS, read_adapter
from ..components.storage.hub import Access
from ..graph import LoadError
from ..graph.files.inside import path_inside
from .keywords import checked_keywords
from .source import checked_access, find_file

_CUSTOMARY = (PEFT_WEIGHTS, "pytorch_lora_weights.safetensors")
"""The names under which PEFT and diffusers publish adapters."""


@checked_keywords
def load_adapter(
    x: str | Path,
    *,
    scale: float = 1.0,
    name: str | None = None,
    subfolder: str = "",
    revision: str | None = None,
    access: Access | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    allow_pickle: bool = False,
) -> Adapter:
    """Read an adapter: a value that `pipe.with_adapters(a)` or `pipe(…, adapters=[a])` applies.

    Args:
        x: a file, a folder, a repo ("owner/name"), or a file of a repo ("owner/name/file.safetensors").
        scale: its strength.
        name: what calls and errors call it; by default the stem of the file.
        subfolder: the folder inside a folder or repo.
        revision: a branch, tag or commit of the repo.
        access: how files may be fetched and read; see `sf.load`. The arguments after it are its fields.

    Raises:
        LoadError: no such file, or keys in it that are of no known kind; all of them.
    """
    access = checked_access(
        access, token, cache_dir, local_files_only, force_download, allow_pickle,
        name=(name, str), subfolder=(subfolder, str), revision=(revision, str),
    )  # fmt: skip
    file = find_file(
        x, "an adapter", _CUSTOMARY, revision=revision, subfolder=subfolder, access=access,
        beside={PEFT_WEIGHTS: PEFT_CONFIG},
    )  # fmt: skip
    made = read_adapter(file, name=name or file.stem, source=str(x), allow_pickle=access.allow_pickle)
    return made.scaled(scale) if scale != 1.0 else made


def split_strength(text: str) -> tuple[str, float]:
    """The file and the strength of FILE or FILE:STRENGTH. ValueError for a strength that is no number.

    >>> split_strength("style.safetensors:0.6"), split_strength("style.safetensors")
    (('style.safetensors', 0.6), ('style.safetensors', 1.0))
    """
    file, colon, number = text.rpartition(":")
    if not colon or "/" in number or "\\" in number or number.endswith(".safetensors"):
        return text, 1.0
    try:
        return file, float(number)
    except ValueError:
        raise ValueError(f"{text}: {number!r} is no strength. Write FILE:STRENGTH, such as {file}:0.6.") from None


def numbered(adapters: Iterable[Adapter], taken: Iterable[str] = ()) -> list[Adapter]:
    """The adapters, with numbers in the names that others of them have, or that are taken."""
    names, made = set(taken), list[Adapter]()
    for one in adapters:
        if one.name in names:
            one = replace(one, name=next(n for k in count(2) if (n := f"{one.name}-{k}") not in names))
        names.add(one.name)
        made.append(one)
    return made


def from_json(
    entries: Sequence[Mapping[str, Any]], folder: Path, allowed: Iterable[str | Path] = ()
) -> list[Adapter | Embedding]:
    """The adapters and embeddings of a graph file.

    Args:
        entries: as the file has them; their form is checked.
        folder: that of the file. A path may lead only inside it.
        allowed: further folders that the file may name.

    Raises:
        LoadError: a path that leads out, no such file, or one that is no adapter or embedding.
        ConfigError: strengths that are no finite numbers, or a window or curve that is none.
    """
    made: list[Adapter | Embedding] = []
    for entry in entries:
        file = path_inside(entry["file"], folder, allowed)
        if (config := file.with_name(PEFT_CONFIG)).exists():
            path_inside(config, folder, allowed)
        if file.suffix != ".safetensors" or not file.is_file():
            raise LoadError(f"{entry['name']}: has no file {entry['file']}, which must be a .safetensors file.")
        if entry.get("token") is not None:
            made.append(embedding_of(read_content(file), Origin(str(file), entry["name"]), entry["token"]))
            continue
        read = load_adapter(file, name=entry["name"], local_files_only=True)
        blocks, by_component = entry.get("blocks", {}), entry.get("by_component", {})
        for name, value in (*blocks.items(), *by_component.items()):
            check_strength(f"{entry['name']}: {name}", value)
        one = replace(read, by_component=by_component, blocks=blocks).scaled(entry.get("strength", 1.0))
        one = one.during(*entry["window"]) if "window" in entry else one
        made.append(one.along(*map(tuple, entry["curve"])) if entry.get("curve") else one)
    return made
