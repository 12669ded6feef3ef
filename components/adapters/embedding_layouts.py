"""Read the content of an embedding's file, in every published layout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ...graph.errors import LoadError, SaveError
from ...registry import counted, did_you_mean
from ..storage.fits import shown_names
from .embedding import Embedding, EncoderName, Vectors, vectors_of

BUNDLE = "bundle_emb."
"""OneTrainer's files of adapters have embeddings in keys "bundle_emb.<token>.<encoder>"."""
_ENCODERS: Mapping[str, EncoderName] = {
    "clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5", "t5xxl": "t5",
    "text_encoders_0": "clip_l", "text_encoders_1": "",
    "emb_params": "", "emp_params": "", "string_to_param.*": "",
}  # fmt: skip
"""Keys of files that have vectors for one token. `emp_params` is OneTrainer's spelling."""
_UNNAMED = ("string_to_param.*", "emb_params", "emp_params")
"""The keys for vectors of which it is not known for which text encoder they are."""
_OUT = "_out"
_PIVOTAL = ("text_encoders_0", "text_encoders_1")
_PARAMS = "string_to_param"
_A1111 = frozenset(
    {"string_to_token", _PARAMS, "name", "step", "sd_checkpoint", "sd_checkpoint_name", "optimizer_state_dict", "hash"}
)
_OF_WEIGHTS = (".weight", ".bias", ".alpha", ".dora_scale", "lora_A", "lora_B", ".lokr_w1", ".hada_w1_a", ".diff")
_WAY = "Use the file of an embedding."
_DEEPEST = 4
"""The greatest depth of lists and dicts in ComfyUI's files."""


@dataclass(frozen=True)
class Origin:
    """Where the content of a file comes from. source: for errors. name: of the embedding, by the file or the caller."""

    source: str
    name: str


def embedding_of(content: object, origin: Origin, token: str | None = None) -> Embedding:
    """Make an embedding of the content of a file.

    Args:
        content: tensors in dicts and lists, or one tensor.
        origin: the file.
        token: the word; by default the file's, else the name. Of a file with several words, it chooses one.

    Raises:
        LoadError: no known layout, several words and no token, or tensors that are no vectors.
    """
    if isinstance(content, Tensor):
        if token is None:
            raise LoadError(f"{origin.source}: is one tensor without a word. Pass token= with the word of the prompt.")
        return _made(origin, token, [("tensor", "", content)])
    if isinstance(content, list | tuple):
        return _of_list(cast("Sequence[object]", content), origin, token)
    if not isinstance(content, Mapping) or not content:
        raise LoadError(f"{origin.source}: needs tensors of an embedding. Got {type(content).__name__}. {_WAY}")
    named = {str(key): value for key, value in cast("Mapping[object, object]", content).items()}
    if _PARAMS in named:
        return _of_a1111(named, origin, token)
    if any(key.startswith(BUNDLE) for key in named):
        return _chosen(bundled(named, origin.source), origin, token)
    if all(key.removesuffix(_OUT) in _ENCODERS for key in named):
        return _of_encoders(named, origin, token)
    return _of_diffusers(named, origin, token)


def is_embedding(named: Mapping[str, object]) -> bool:
    """Whether the tensors of a file look like those of an embedding."""
    if any(mark in key for key in named for mark in _OF_WEIGHTS):
        return False
    if all(_is_word(key) or key.startswith(BUNDLE) or key.removesuffix(_OUT) in _ENCODERS for key in named):
        return True
    (first, *others) = named.items()
    return not others and "." not in first[0] and isinstance(first[1], Tensor) and first[1].ndim in (1, 2)


def bundled(named: Mapping[str, object], source: str) -> tuple[Embedding, ...]:
    """The embeddings in the file of an adapter. Other keys are ignored. LoadError for tensors that are no vectors."""
    by_word: dict[str, dict[str, object]] = {}
    for key, value in named.items():
        if not key.startswith(BUNDLE):
            continue
        rest = key.removeprefix(BUNDLE)
        ends = [end for end in _ENCODERS for end in (end, end + _OUT) if rest.endswith(f".{end}")]
        if not ends:
            raise LoadError(f"{source}: {key!r} names no text encoder. Known are: {', '.join(_ENCODERS)}.")
        end = max(ends, key=len)
        by_word.setdefault(rest.removesuffix(f".{end}"), {})[end] = value
    return tuple(_of_encoders(parts, Origin(source, word), word) for word, parts in by_word.items())


def tensors_of(embedding: Embedding) -> dict[str, Tensor]:
    """The vectors of an embedding by the keys of their text encoders: the content of a file of one word.

    Raises:
        SaveError: vectors for more text encoders without a name than there are keys for.
    """
    unnamed = iter(_UNNAMED)
    found: dict[str, Tensor] = {}
    for vectors in embedding.vectors:
        key = vectors.encoder or next(unnamed, "")
        if not key:
            raise SaveError(f"{embedding.name}: has vectors of more than {len(_UNNAMED)} widths without an encoder.")
        found[key] = vectors.inputs
        if vectors.outputs is not None:
            found[key + _OUT] = vectors.outputs
    return found


def file_of(embeddings: Sequence[Embedding], *, named: bool) -> dict[str, Tensor]:
    """The content of a file of embeddings.

    For one text encoder, that is the layout of diffusers (the key is the word), or without `named` that of A1111's web
    UI, whose word is the name of the file. For several it is the one that all read, or OneTrainer's for several words.

    Raises:
        SaveError: several words that the layout cannot express.
    """
    one, *others = embeddings
    several = len(one.vectors) > 1
    if not others:
        return tensors_of(one) if several else {one.token if named else "emb_params": one.vectors[0].inputs}
    if several:
        return {f"{BUNDLE}{e.token}.{key}": tensor for e in embeddings for key, tensor in tensors_of(e).items()}
    if not named or not all(_is_word(e.token) for e in embeddings):
        raise SaveError(
            f"{', '.join(e.token for e in embeddings)}: a file can have several words only in the layout of diffusers, "
            "and if they are written as <word>. Save each in a file of its own."
        )
    return {e.token: e.vectors[0].inputs for e in embeddings}


def _made(origin: Origin, token: str, parts: Sequence[tuple[str, EncoderName, object]], *notes: str) -> Embedding:
    """An embedding of tensors: for each its key and its text encoder."""
    vectors = tuple(Vectors(encoder, vectors_of(origin.source, key, tensor)) for key, encoder, tensor in parts)
    return Embedding(origin.name, token, vectors, origin.source, notes)


def _of_encoders(named: Mapping[str, object], origin: Origin, token: str | None) -> Embedding:
    """A file with a key for each text encoder, and perhaps one more for its output."""
    vectors: list[Vectors] = []
    for key in dict.fromkeys(key.removesuffix(_OUT) for key in named):
        encoder: EncoderName = _ENCODERS[key]
        inputs, outputs = (
            vectors_of(origin.source, name, named[name]) if name in named else None for name in (key, key + _OUT)
        )
        if key == "text_encoders_1" and inputs is not None:
            encoder = "t5" if inputs.shape[1] == 4096 else "clip_g"
        if inputs is not None and outputs is not None and inputs.shape != outputs.shape:
            raise LoadError(
                f"{origin.source}: {key!r} has the shape {tuple(inputs.shape)}, and {key + _OUT!r} "
                f"{tuple(outputs.shape)}. They need the same. Fetch the file again."
            )
        if inputs is None:
            assert outputs is not None
            inputs = outputs.new_zeros(outputs.shape)
        vectors.append(Vectors(encoder, inputs, outputs))
    if token is None and set(named) <= set(_PIVOTAL):
        token = "".join(f"<s{i}>" for i in range(len(vectors[0].inputs)))
    return Embedding(origin.name, token or origin.name, tuple(vectors), origin.source)


def _of_a1111(named: Mapping[str, object], origin: Origin, token: str | None) -> Embedding:
    """A file of A1111: the vectors have the key "*", and the word is the name of the file."""
    if unknown := sorted(set(named) - _A1111):
        raise LoadError(f"{origin.source}: has {_PARAMS} and unknown keys: {shown_names(unknown)}. {_WAY}")
    params = named[_PARAMS]
    found = list(cast("Mapping[object, object]", params).items()) if isinstance(params, Mapping) else []
    if len(found) != 1:
        got = f"one with {len(found)}" if isinstance(params, Mapping) else type(params).__name__
        raise LoadError(f"{origin.source}: {_PARAMS} needs a dict with one tensor. Got {got}. {_WAY}")
    ((key, tensor),) = found
    own = named.get("name")
    notes = [f"The file calls itself {own!r}."] if isinstance(own, str) and own not in (origin.name, token) else []
    return _made(origin, token or origin.name, [(f"{_PARAMS}.{key}", "", tensor)], *notes)


def _of_list(content: Sequence[object], origin: Origin, token: str | None) -> Embedding:
    """A list of ComfyUI: tensors in dicts and lists. Those of one width are one word for the encoder of that width."""
    by_width: dict[int, list[Tensor]] = {}
    for key, tensor in _tensors(content, origin.source):
        rows = vectors_of(origin.source, key, tensor)
        by_width.setdefault(rows.shape[1], []).append(rows)
    if not by_width:
        raise LoadError(f"{origin.source}: has a list without tensors. {_WAY}")
    joined = (vectors_of(origin.source, "list", torch.cat(rows)) for rows in by_width.values())
    return Embedding(origin.name, token or origin.name, tuple(Vectors("", rows) for rows in joined), origin.source)


def _tensors(content: object, source: str, depth: int = 0, key: str = "list") -> Iterator[tuple[str, object]]:
    """The tensors of nested lists and dicts, with the place of each."""
    if depth > _DEEPEST:
        raise LoadError(f"{source}: has lists more than {_DEEPEST} deep in each other. {_WAY}")
    if isinstance(content, Mapping):
        for name, value in cast("Mapping[object, object]", content).items():
            yield from _tensors(value, source, depth + 1, f"{key}.{name}")
    elif isinstance(content, list | tuple):
        for index, value in enumerate(cast("Sequence[object]", content)):
            yield from _tensors(value, source, depth + 1, f"{key}.{index}")
    else:
        yield key, content


def _of_diffusers(named: Mapping[str, object], origin: Origin, token: str | None) -> Embedding:
    """A file of diffusers: the key is the word. LoadError for files that look like adapters or models."""
    of_weights = any(mark in key for key in named for mark in _OF_WEIGHTS)
    if of_weights or (len(named) > 1 and not all(map(_is_word, named))):
        raise LoadError(
            f"{origin.source}: {counted(len(named), 'key')} of no known kind of embedding: {shown_names(list(named))}. "
            "Load an adapter with sf.load_adapter, and a model with sf.load or sf.load_component."
        )
    if len(named) == 1:
        ((key, tensor),) = named.items()
        return _made(origin, token or key, [(key, "", tensor)])
    words = tuple(_made(Origin(origin.source, key), key, [(key, "", tensor)]) for key, tensor in named.items())
    return _chosen(words, origin, token)


def _is_word(key: str) -> bool:
    return key.startswith("<") and key.endswith(">")


def _chosen(found: Sequence[Embedding], origin: Origin, token: str | None) -> Embedding:
    """The one of several embeddings that `token` names."""
    words = {one.token: one for one in found}
    if token is None and len(found) == 1:
        token = found[0].token
    if token not in words:
        way = did_you_mean(token, list(words)) if token else f"Choose one with token=: {', '.join(words)}."
        raise LoadError(f"{origin.source}: has {counted(len(found), 'word')}. {way}")
    one = words[token]
    return Embedding(origin.name if len(found) == 1 else one.name, token, one.vectors, origin.source)
