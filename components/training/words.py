"""Train the vectors of words: textual inversion (Gal et al. 2022), with several vectors for a word."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...graph.errors import ConfigError, SaveError
from ...graph.fields import Lazy
from ...graph.graph import Graph
from ...graph.saving import saving_file
from ...graph.structure import Structure
from ...registry import did_you_mean
from ..adapters.attached import text_encoders_in
from ..adapters.embedded import TOKEN_TABLES, AdaptedTokenizer, EncoderWords, encoder_name, tokenizer_of, words_of
from ..adapters.embedding import Embedding, EncoderName, Vectors
from ..adapters.embedding_files import read_content
from ..adapters.embedding_layouts import Origin, embedding_of, file_of
from ..adapters.layouts import Layout
from ..adapters.over import type_of
from ..loading.tokenizer_base import FastTokenizer
from ..models.token_table import ExtendedTable
from ..storage.weights import write_safetensors
from .component import TrainedComponent
from .trained import NO_BINDINGS, NO_HEADER, ParameterGroup, Trained


class TrainedTable(ExtendedTable):
    """A table of tokens whose further rows are trained. It reads them at each forward, since FSDP replaces them."""

    def __init__(self, inner: nn.Module, vectors: nn.ParameterDict, name: str) -> None:
        super().__init__(inner, vectors[name])
        self.__dict__.update(vectors=vectors, name=name)

    @property
    def rows(self) -> Tensor:
        """The further rows, (rows, width)."""
        return self.__dict__["vectors"][self.__dict__["name"]]


class TrainedWords(Trained):
    """Words in training; `train_words` makes them.

    Only their vectors are parameters: `rows` has a matrix (vectors of all words, width) for each text encoder. The
    tables of the text encoders do not change.
    """

    def __init__(self, pipe: Structure, words: Mapping[str, int], rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.words = dict(words)
        self.rows = nn.ParameterDict({name: nn.Parameter(tensor) for name, tensor in rows.items()})
        self._pipe = pipe
        self._kinds = {name: kind for name, (kind, _) in text_encoders_in(pipe.bindings).items()}

    def bindings(self, over: Mapping[str, Any] = NO_BINDINGS) -> Mapping[str, Any]:
        """The text encoders that read the vectors, and the tokenizers that know the words."""
        embeddings, own = self.embeddings(), {**self._pipe.bindings, **over}
        found: dict[str, Any] = {}
        for name, words in words_of(embeddings, text_encoders_in(own)).items():
            known = EncoderWords(words.path, words.map, None)
            found[tokenizer_of(name)] = AdaptedTokenizer(own[tokenizer_of(name)], embeddings, known)
            if name in self.rows:
                changes = {words.path: partial(TrainedTable, vectors=self.rows, name=name)}
                found[name] = TrainedComponent(own[name], changes)
        return found

    def groups(self) -> Sequence[ParameterGroup]:
        """One group for each text encoder."""
        return [ParameterGroup(name, (cast("nn.Parameter", rows),)) for name, rows in self.rows.items()]

    def embeddings(self) -> tuple[Embedding, ...]:
        """The words as `sf.load_embedding` reads them from the saved file. Later steps do not change them."""
        counts = list(self.words.values())
        parts = {
            name: [part.to("cpu", torch.float32, copy=True) for part in rows.detach().split(counts)]
            for name, rows in self.rows.items()
        }
        kinds: dict[str, EncoderName] = {name: encoder_name(name, self._kinds[name]) for name in parts}
        if len(kinds) == 1:  # as files of one text encoder are published
            kinds = dict.fromkeys(kinds, "")
        return tuple(
            Embedding(
                word.strip("<>") or word,
                word,
                tuple(Vectors(kinds[name], own[i]) for name, own in parts.items()),
            )
            for i, word in enumerate(self.words)
        )

    def attached(self, pipe: Graph) -> Graph:
        """The preset with the words; see `Trained.attached`."""
        return pipe.with_adapters(*self.embeddings())

    def save(self, path: str | Path, *, layout: Layout | None = None, header: Mapping[str, str] = NO_HEADER) -> Path:
        """Write the vectors to a safetensors file.

        layout: "kohya" and "comfy" are the key of A1111's web UI and sd-scripts, whose word is the name of the file.
        Otherwise it is that of diffusers, which has the words. For several text encoders all have the keys "clip_l" and
        "clip_g".

        Raises:
            SaveError: a path without `.safetensors`, or several words, which the layout cannot express.
        """
        if Path(path).suffix != self.suffix:
            raise SaveError(f"{path}: needs a name that ends with {self.suffix}. Other programs go by it.")
        tensors = file_of(self.embeddings(), named=layout not in ("kohya", "comfy"))
        with saving_file(path) as draft:
            write_safetensors(tensors, draft, dict(header))
        return Path(path)

    def load(self, path: str | Path) -> Embedding | tuple[Embedding, ...]:
        """The embedding of a saved file, or those of several words; see `Trained.load`."""
        content, origin = read_content(Path(path)), Origin(str(path), Path(path).stem)
        found = tuple(embedding_of(content, origin, word) for word in self.words)
        return found[0] if len(found) == 1 else found


def train_words(
    pipe: Structure,
    words: str | Sequence[str],
    vectors: int = 1,
    *,
    initializer: str | None = None,
    components: Sequence[str] | None = None,
) -> TrainedWords:
    """Train words of a graph's text encoders.

    Args:
        pipe: the graph. Its text encoders are loaded, to read the vectors to start from.
        words: the new words, as a prompt writes them: "<cat-toy>".
        vectors: of each word.
        initializer: words of the vocabulary whose vectors are the first ones, one behind the other, and again from the
            start where there are fewer. None for the words in the word itself.
        components: text encoders; None for all of CLIP's.

    Raises:
        ConfigError: no word, a word that is written as others, no such text encoder, or an initializer without tokens.
    """
    chosen = [words] if isinstance(words, str) else list(words)
    if not chosen or type(vectors) is not int or vectors < 1:
        raise ConfigError(f"words: needs words and a number of vectors. Got {chosen} and {vectors!r}.")
    known = {name: kind for name, (kind, _) in text_encoders_in(pipe.bindings).items()}
    names = [n for n, kind in known.items() if kind.startswith("CLIP")] if components is None else list(components)
    if wrong := [name for name in names if name not in known]:
        raise ConfigError(f"components: the graph has no text encoder {wrong[0]!r}. {did_you_mean(wrong[0], known)}")
    if not names:
        raise ConfigError("words: the graph has no text encoder of CLIP bound. Load a checkpoint: sf.load(…).")
    rows = {
        name: torch.cat([row for word in chosen for row in _first(pipe, name, word, initializer, vectors)])
        for name in names
    }
    return TrainedWords(pipe, dict.fromkeys(chosen, vectors), rows)


def _first(pipe: Structure, name: str, word: str, initializer: str | None, vectors: int) -> Iterator[Tensor]:
    """The vectors (1, width) that a word starts from."""
    encoder, tokenizer = (loaded(pipe.bindings.get(component)) for component in (name, tokenizer_of(name)))
    if not isinstance(tokenizer, FastTokenizer):
        raise ConfigError(
            f"words: {name} needs a tokenizer of sfumato. Got {type(tokenizer).__name__}. Load it with "
            "sf.load_component(folder)."
        )
    text = word.strip("<>").replace("-", " ").replace("_", " ") if initializer is None else initializer
    ends = tokenizer.encode("")
    ids = [index for index in tokenizer.encode(text) if index not in ends]
    if not ids:
        raise ConfigError(f"initializer: {text!r} has no tokens of {name}. Pass initializer= with a word that it has.")
    table = encoder.get_submodule(TOKEN_TABLES[type_of(pipe.bindings[name]).__name__])
    with torch.no_grad():
        for i in range(vectors):
            yield table(torch.tensor([ids[i % len(ids)]], device=encoder.device)).to("cpu", torch.float32, copy=True)


def loaded(component: Any) -> Any:  # whatever a graph binds
    """The object of a component."""
    return component.load() if isinstance(component, Lazy) else component
