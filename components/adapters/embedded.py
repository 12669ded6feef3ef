"""Attach embeddings: choose the text encoder of each vector, and give its words to the tokenizer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...graph.errors import ConfigError
from ...graph.fields import Lazy
from ...graph.memo.code import digest
from ...graph.memo.contents import content_key
from ...graph.memo.library_values import NoContentKey
from ...registry.log import LOG
from ..loading.token_map import TokenMap
from ..loading.tokenizer_base import FastTokenizer
from ..models.token_table import ExtraRows
from .embedding import Embedding, EncoderName, Vectors
from .over import OverComponent

TOKEN_TABLES = {
    "CLIPTextModel": "text_model.embeddings.token_embedding",
    "CLIPTextModelWithProjection": "text_model.embeddings.token_embedding",
    "T5EncoderModel": "shared",
    "UMT5EncoderModel": "shared",
}
"""The path of the token table of each class of text encoders."""
_FAMILIES = {
    768: "SD 1, or CLIP L of SDXL, SD 3 and Flux",
    1024: "SD 2",
    1280: "CLIP G of SDXL and SD 3",
    4096: "T5 XXL",
}
"""The text encoders that have a width, for errors."""


@dataclass(frozen=True, eq=False)
class EncoderWords:
    """The words of embeddings for one text encoder and its tokenizer.

    path: of the token table. map: for the tokenizer. extra: for the encoder; None where it has no vectors.
    """

    path: str
    map: TokenMap
    extra: ExtraRows | None


@dataclass(frozen=True, eq=False)
class AdaptedTokenizer(OverComponent):
    """A tokenizer that reads the words of embeddings as their vectors.

    embeddings: all those of the graph. words: their words for its text encoder.
    """

    embeddings: tuple[Embedding, ...]
    words: EncoderWords

    def content_key(self) -> str | None:
        """The key of the tokenizer and of the embeddings."""
        try:
            return digest(content_key(self.base), embeddings_key(self.embeddings))
        except NoContentKey:
            return None

    def load(self) -> Any:
        """A tokenizer over the same vocabulary. ConfigError for one of another library."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> FastTokenizer:
        base = self.loaded_base()
        if not isinstance(base, FastTokenizer):
            raise ConfigError(
                f"adapters: embeddings need a tokenizer of sfumato. Got {type(base).__name__}. Load it with "
                "sf.load_component(folder)."
            )
        ends = base.encode("")
        for word in self.words.map.tokens:
            own = [index for index in base.encode(word) if index not in ends]
            if len(own) == 1 and own != [base.unk_token_id]:
                LOG.info("%s: the word is in the vocabulary too. In this graph it is the embedding.", word)
        return base.with_tokens(self.words.map)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdaptedTokenizer) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[object, ...]:
        return self.base if isinstance(self.base, Lazy) else id(self.base), self.embeddings


def embeddings_key(embeddings: Sequence[Embedding]) -> str:
    """The content key of embeddings: their words and their vectors."""
    return content_key([(one.token, one.name, one.vectors) for one in embeddings])


def tokenizer_of(encoder: str) -> str:
    """The component that is the tokenizer of a text encoder: "text_encoder_2" -> "tokenizer_2"."""
    return encoder.replace("text_encoder", "tokenizer", 1)


def encoder_name(component: str, class_name: str) -> EncoderName:
    """The name that files of embeddings have for a text encoder: "text_encoder_2" of SDXL is "clip_g"."""
    if "T5" in class_name:
        return "t5"
    return "clip_g" if component.endswith("_2") else "clip_l"


def words_of(
    embeddings: Sequence[Embedding], encoders: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> Mapping[str, EncoderWords]:
    """The words of embeddings for each text encoder.

    Args:
        embeddings: in the order in which they were attached.
        encoders: by component, the class and the config.

    Raises:
        ConfigError: two embeddings of one word, and vectors of a width that no text encoder has.
    """
    _check_words(embeddings)
    seats = _seats(encoders)
    chosen = {one: {name: seat.choose(one) for name, seat in seats.items()} for one in embeddings}
    for one, by_encoder in chosen.items():
        _check_fit(one, by_encoder, seats)
    return {name: seat.words({one: chosen[one][name] for one in embeddings}) for name, seat in seats.items()}


def report(embedding: Embedding, encoders: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    """Log the text encoders that do not read an embedding, and the notes on its file."""
    if silent := [name for name, seat in _seats(encoders).items() if seat.choose(embedding) is None]:
        LOG.info(
            "%s: has no vectors for %s. There, %r is plain text.", embedding.name, ", ".join(silent), embedding.token
        )
    for note in embedding.notes:
        LOG.info("%s: %s", embedding.name, note)


def _seats(encoders: Mapping[str, tuple[str, Mapping[str, Any]]]) -> Mapping[str, "_Seat"]:
    return {name: _Seat.of(name, kind, config) for name, (kind, config) in encoders.items() if kind in TOKEN_TABLES}


@dataclass(frozen=True)
class _Seat:
    """A text encoder of a graph."""

    path: str
    kind: EncoderName
    width: int

    @classmethod
    def of(cls, name: str, kind: str, config: Mapping[str, Any]) -> "_Seat":
        width = config.get("d_model" if "T5" in kind else "hidden_size", 512)
        return cls(TOKEN_TABLES[kind], encoder_name(name, kind), width)

    def choose(self, embedding: Embedding) -> Vectors | None:
        """The vectors for this encoder: those that name it, else those of its width that name none."""
        fitting = [one for one in embedding.vectors if one.width == self.width and one.encoder in (self.kind, "")]
        return max(fitting, key=lambda one: one.encoder, default=None)

    def words(self, chosen: Mapping[Embedding, Vectors | None]) -> EncoderWords:
        """The words, with ids -1, -2, … for the rows of all embeddings, one behind the other."""
        tokens: dict[str, Sequence[int]] = {}
        names: dict[str, Sequence[int]] = {}
        count = 0
        for embedding, vectors in chosen.items():
            ids: Sequence[int] = ()
            if vectors is not None:
                ids = range(-1 - count, -1 - count - len(vectors.inputs), -1)
                count += len(vectors.inputs)
                tokens[embedding.token] = ids
            names[embedding.name] = names[embedding.token] = ids
        return EncoderWords(self.path, TokenMap(tokens, names), _extra([v for v in chosen.values() if v is not None]))


def _extra(vectors: Sequence[Vectors]) -> ExtraRows | None:
    if not vectors:
        return None
    inputs = torch.cat([one.inputs for one in vectors])
    if all(one.outputs is None for one in vectors):
        return ExtraRows(inputs)
    outputs = [one.inputs if one.outputs is None else one.outputs for one in vectors]
    replaced: list[Tensor] = [torch.full((len(one.inputs),), one.outputs is not None) for one in vectors]
    return ExtraRows(inputs, torch.cat(outputs), torch.cat(replaced))


def _check_words(embeddings: Iterable[Embedding]) -> None:
    owners: dict[str, Embedding] = {}
    for one in embeddings:
        for what, word in (("token", one.token), ("name", one.name)):
            if owners.setdefault(word.lower(), one) is not one:
                raise ConfigError(
                    f"adapters: two embeddings have the {what} {word!r}. Pass {what}= to sf.load_embedding."
                )


def _check_fit(one: Embedding, chosen: Mapping[str, Vectors | None], seats: Mapping[str, _Seat]) -> None:
    """ConfigError for an embedding that no text encoder can read, or one of another width than the file names."""
    wrong = [v for v in one.vectors for s in seats.values() if v.encoder == s.kind and v.width != s.width]
    if not wrong and any(vectors is not None for vectors in chosen.values()):
        return
    have = ", ".join(f"{name} of width {seat.width}" for name, seat in seats.items()) or "no text encoder"
    widths = " and ".join(dict.fromkeys(map(_width, wrong or one.vectors)))
    raise ConfigError(
        f"adapters: the embedding {one.name!r} ({one.source}) has vectors of width {widths}, and the graph has {have}. "
        "Use an embedding that was trained for this family."
    )


def _width(vectors: Vectors) -> str:
    family = _FAMILIES.get(vectors.width)
    return f"{vectors.width} ({family})" if family else str(vectors.width)
