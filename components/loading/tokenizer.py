"""CLIP's byte-pair tokenizer over the `tokenizers` library, with the ids that transformers' CLIPTokenizer gives."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import JsonValue
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ...graph.saving import saving_folder
from ..storage.files import find_folder, write_json, write_text
from .tokenizer_base import FastTokenizer, TokenizerConfig, tokenizer_errors
from .tokenizer_files import read_vocabulary, text_of

_END_OF_WORD = "</w>"

# How CLIP cuts text into words (Radford et al. 2021, the published `simple_tokenizer`): special tokens, English
# contractions, runs of letters, single digits, runs of anything else but space.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TextTokens(Protocol):
    """The part of a tokenizer's result that blocks read."""

    @property
    def input_ids(self) -> list[list[int]]:
        """A row of token ids for each text."""
        ...


class TextTokenizer(Protocol):
    """A tokenizer as blocks use it. Tokenizers of transformers fit, and can be bound."""

    @property
    def model_max_length(self) -> int:
        """The longest row that the model reads, with its begin and end tokens."""
        ...

    @property
    def bos_token_id(self) -> int | None:
        """The id of the begin token, if rows have one."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end token."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """The id of the token that fills short rows."""
        ...

    def __call__(self, text: list[str]) -> TextTokens:
        """The ids of each text with begin and end tokens, not truncated and not padded."""
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of token ids."""
        ...


class CLIPTokenizer(FastTokenizer):
    """Text to the ids of CLIP's vocabulary, from `tokenizer.json` or from `vocab.json` and `merges.txt`."""

    files = ("tokenizer.json",), ("vocab.json", "merges.txt")
    defaults: ClassVar = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    longest = 77
    begins = True
    bos_token_id: int

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        *,
        special: Mapping[str, str | AddedToken] | None = None,
        **settings: Any,  # the other keywords of FastTokenizer
    ) -> None:
        """See `FastTokenizer`. `vocab` has the id of each piece, `merges` the pairs in the order of merging."""
        unknown = text_of({**self.defaults, **(special or {})}["unk_token"])
        super().__init__(_backend(vocab, merges, unknown), special=special, **settings)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, subfolder: str | None = None, config: Mapping[str, JsonValue] | None = None
    ) -> Self:
        """Read a tokenizer folder of transformers 4 or 5.

        Args:
            folder: a local folder.
            subfolder: the folder in it.
            config: keys that replace those of `tokenizer_config.json`.

        Raises:
            LoadError: a file that is missing or damaged.
        """
        root = find_folder(str(folder)) / (subfolder or "")
        vocab, merges, added = read_vocabulary(root)
        settings = TokenizerConfig.read(root, added, config)
        with tokenizer_errors(f"{root}: vocabulary and merges do not match"):
            return cls(vocab, merges, **vars(settings))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt and the configs: the layout that transformers 4 and 5 both read.

        All files are saved together, or none. SaveError if the folder cannot be written.
        """
        vocab = self._tokenizer.get_vocab(with_added_tokens=False)
        in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
        merges = "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in self._merges())]) + "\n"
        config = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", **self._config()}
        with saving_folder(folder) as draft:
            write_text(draft.path / "vocab.json", json.dumps(in_order, ensure_ascii=False))
            write_text(draft.path / "merges.txt", merges)
            write_json(draft.path / "special_tokens_map.json", dict(self._special))
            write_json(draft.path / "tokenizer_config.json", config)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids, in lower case, with single spaces between words."""
        text = super().decode(token_ids, skip_special_tokens)
        return text.replace(f"{_END_OF_WORD} ", " ").replace(_END_OF_WORD, " ").strip()

    def _merges(self) -> Iterable[tuple[str, str]]:
        for merge in json.loads(self._tokenizer.to_str())["model"]["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            yield left, right


def _backend(vocab: Mapping[str, int], merges: Iterable[tuple[str, str]], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(
        BPE(
            vocab=dict(vocab),
            merges=list(merges),
            unk_token=unknown,
            continuing_subword_prefix="",
            end_of_word_suffix=_END_OF_WORD,
            fuse_unk=False,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
