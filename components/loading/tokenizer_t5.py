"""T5's tokenizer over the `tokenizers` library, with the ids that transformers' T5Tokenizer gives."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from ...graph.errors import LoadError
from ...graph.limits import AboveLimit, check_limit
from ...graph.saving import saving_folder
from ...graph.validate import value_text
from ..storage.files import find_folder, read_json, write_json, write_text
from .sentencepiece import read_sentencepieces
from .tokenizer_base import FastTokenizer, TokenizerConfig, read_config, tokenizer_errors
from .tokenizer_files import check_pieces, model_in, token_from

_SPACE = "▁"
_UNKNOWN = 2  # T5's ids: <pad>, </s>, <unk>


class T5Tokenizer(FastTokenizer):
    """Text to the ids of T5's vocabulary, from `tokenizer.json` or from `spiece.model`.

    A row has the text's pieces and the end token, and no begin token. The vocabulary ends with the sentinels
    `<extra_id_0>` …, in falling order; their number is the config's `extra_ids` (100).
    """

    files = ("tokenizer.json",), ("spiece.model",)
    defaults: ClassVar = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    longest = 512

    def __init__(
        self,
        pieces: Sequence[tuple[str, float]],
        *,
        charsmap: bytes = b"",
        **settings: Any,  # the other keywords of FastTokenizer
    ) -> None:
        """See `FastTokenizer` for the other keywords.

        Args:
            pieces: by id, each with its log probability.
            charsmap: SentencePiece's table of normalised characters; b"" for none.
        """
        backend = Tokenizer(Unigram(list(pieces), unk_id=_UNKNOWN, byte_fallback=False))
        if charsmap:
            backend.normalizer = normalizers.Precompiled(charsmap)
        spaces = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
        backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
        super().__init__(backend, **settings)
        end = self._special["eos_token"]
        # `_row` adds the end token. This entry is for readers of the saved file.
        backend.post_processor = processors.TemplateProcessing(
            single=["$A", end], pair=["$A", end, "$B", end], special_tokens=[(end, self.eos_token_id)]
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path, subfolder: str | None = None) -> Self:
        """Read a tokenizer folder of transformers 4 or 5. LoadError for a file that is missing or damaged."""
        root = find_folder(str(folder)) / (subfolder or "")
        whole, model = root / "tokenizer.json", root / "spiece.model"
        if whole.is_file():
            pieces, charsmap, added = _of_json(whole)
            control: list[str | AddedToken] = []
        elif model.is_file():
            read = read_sentencepieces(model)
            pieces, charsmap, added = [(p.text, p.score) for p in read.pieces], read.charsmap, {}
            control = [
                AddedToken(p.text, normalized=False, special=p.control)
                for p in read.pieces
                if p.control or p.user_defined
            ]
            pieces += [(text, 0.0) for text in reversed(_sentinels(root))]
        else:
            raise LoadError(f"{root}: needs tokenizer.json or spiece.model, and has neither.")
        settings = vars(TokenizerConfig.read(root, added))
        if not any("<extra_id_" in str(token) for token in settings["extra"]):
            settings["extra"] = [*settings["extra"], *control, *_sentinels(root)]
        with tokenizer_errors(f"{root}: the vocabulary cannot be used"):
            return cls(pieces, charsmap=charsmap, **settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which transformers 4 and 5 read.

        Both files are saved, or none. SaveError if the folder cannot be written.
        """
        added = [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]
        sentinels = [text for text in added if text.startswith("<extra_id_")]
        with saving_folder(folder) as draft:
            write_text(draft.path / "tokenizer.json", self._tokenizer.to_str(pretty=False))
            write_json(draft.path / "tokenizer_config.json", {"extra_ids": len(sentinels), **self._config()})


def _of_json(whole: Path) -> tuple[list[tuple[str, float]], bytes, Mapping[int, AddedToken]]:
    """Pieces, table and added tokens of a `tokenizer.json`. Its way to split words is not used: T5's is fixed."""
    data = read_json(whole, "vocabulary_bytes")
    model = model_in(whole, data)
    if model.get("type", "Unigram") != "Unigram":
        raise LoadError(f"{whole}: model.type: T5 needs 'Unigram', got {value_text(model['type'])}.")
    try:
        pieces = [(str(text), float(score)) for text, score in model["vocab"]]
        check_pieces([text for text, _ in pieces])
        added = {int(t["id"]): token_from(t) for t in data["added_tokens"]}
        first = data.get("normalizer") or {}
        steps = first["normalizers"] if first.get("type") == "Sequence" else [first]
        tables = [step["precompiled_charsmap"] for step in steps if step.get("type") == "Precompiled"]
        return pieces, base64.b64decode(tables[0]) if tables else b"", added
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise LoadError(f"{whole}: not a tokenizer file ({error!r}). Fetch it again.") from error


def _sentinels(root: Path) -> list[str]:
    count = read_config(root).get("extra_ids", 100)
    count = count if isinstance(count, int) else 100
    try:
        check_limit("added_tokens", count)
    except AboveLimit as error:
        raise LoadError(f"{root}: extra_ids in tokenizer_config.json {error}") from None
    return [f"<extra_id_{i}>" for i in range(count)]
