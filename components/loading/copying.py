"""The files of a component that a save copies: those that its class reads. Each is first read as its format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ...graph.errors import LoadError
from ..spec import ComponentSpec
from ..storage.files import read_json, read_lines
from .component import fetch, is_model, read_component, weight_names_of, weight_problems
from .component_files import refuse_code, small_files_of
from .sentencepiece import check_sentencepieces


def files_to_copy(spec: ComponentSpec) -> tuple[str, ...]:
    """The names of the files that a copy of a component needs. All are in its folder, which is fetched.

    Other files of the folder, such as notes, are not copied: a folder may hold what its owner would not publish.

    Raises:
        LoadError: a file that cannot be read as what its name says, that does not fit the class, or that is a link out
            of the folder.
    """
    folder, present = fetch(spec), spec.location.names(spec.subfolder)
    refuse_code(spec.location, spec.subfolder)
    small = [name for name in small_files_of(spec.type) or () if name in present]
    spec.location.local(spec.subfolder, small)
    for name in small:
        _check(folder / name)
    if not is_model(spec.type):
        read_component(spec, torch.float32, "cpu")
        return tuple(small)
    if problems := weight_problems(spec):
        raise LoadError("\n".join(problems))
    weights = weight_names_of(spec)
    index = [name for name in present if ".safetensors.index." in name and _shards(folder / name) == {*weights}]
    return (*small, *weights, *sorted(index))


def _shards(index: Path) -> set[str]:
    """The files that an index of shards names."""
    names = read_json(index, "index_bytes").get("weight_map")
    return {str(name) for name in names.values()} if isinstance(names, dict) else set()


def _check(path: Path) -> None:
    """Raise LoadError if a small file is not what its name says."""
    if (reader := _READERS.get(path.name)) is not None:
        reader(path)
    elif path.name.endswith(".json"):
        read_json(path)
    elif path.name.endswith(".model"):
        check_sentencepieces(path)
    else:
        read_lines(path, "vocabulary_bytes")


def _check_tokenizer(path: Path) -> None:
    text = "\n".join(read_lines(path, "vocabulary_bytes"))
    try:
        Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise LoadError(f"{path}: is not a tokenizer ({error}). Fetch it again.") from None


def _check_vocabulary(path: Path) -> None:
    for token, index in read_json(path, "vocabulary_bytes").items():
        if type(index) is not int:
            raise LoadError(f"{path}: the token {token!r} needs a number, got {index!r}. Fetch the file again.")


def _check_merges(path: Path) -> None:
    for number, line in enumerate(read_lines(path, "vocabulary_bytes"), 1):
        if line.strip() and not line.startswith("#version") and len(line.split(" ")) != 2:
            raise LoadError(f"{path}: line {number} needs two parts, got {line[:80]!r}. Fetch the file again.")


_READERS: Mapping[str, Callable[[Path], None]] = {
    "merges.txt": _check_merges,
    "tokenizer.json": _check_tokenizer,
    "vocab.json": _check_vocabulary,
}
