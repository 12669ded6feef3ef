"""CLIP's byte-pair tokenizer over the `tokenizers` library, with the ids that transformers' CLIPTokenizer gives."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, overload

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ...graph.errors import ConfigError, LoadError
from .files import locate, read_json, write_json, write_text
from .tokenizer_files import NAMED, flags_of, read_special_tokens, read_vocabulary, text_of, token_from

Texts = list[str] | tuple[str, ...]
Padding = bool | Literal["max_length", "longest"]
_END_OF_WORD = "</w>"

# How CLIP cuts text into words (Radford et al. 2021, the published `simple_tokenizer`): special tokens, English
# contractions, runs of letters, single digits, runs of anything else but space.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_DEFAULTS: dict[str, str | AddedToken] = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}


@dataclass(frozen=True)
class Tokens:
    """What a call with one text gives: token ids, and a mask of the same length that is 0 on padding."""

    input_ids: list[int]
    attention_mask: list[int]


@dataclass(frozen=True)
class TokenRows:
    """What a call with several texts gives: a row each."""

    input_ids: list[list[int]]
    attention_mask: list[list[int]]


class TextTokens(Protocol):
    """What a block reads of a tokenizer's answer: a row of ids for each text."""

    @property
    def input_ids(self) -> list[list[int]]: ...


class TextTokenizer(Protocol):
    """All that blocks ask of a tokenizer: ids with begin and end, neither cut nor padded.

    transformers' tokenizers fit too, and can be bound in place of ours.
    """

    @property
    def model_max_length(self) -> int: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    def __call__(self, text: list[str]) -> TextTokens: ...
    def decode(self, token_ids: list[int]) -> str: ...


class CLIPTokenizer:
    """Text to the ids of CLIP's vocabulary, from `tokenizer.json` or from `vocab.json` and `merges.txt`.

    One object may be called by many threads: padding and truncation are done here, per call, and never set on the
    Tokenizer inside. Special tokens written in the text become their ids, as published.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Iterable[tuple[str, str]],
        *,
        special: Mapping[str, str | AddedToken] | None = None,
        added: Mapping[int, AddedToken] | None = None,
        extra: Sequence[str | AddedToken] = (),
        model_max_length: int = 77,
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        """`special` maps "bos_token" and the like to tokens; `added` are further tokens by id; `extra`, without one."""
        self.model_max_length = model_max_length
        self.padding_side, self.truncation_side = padding_side, truncation_side
        named = {**_DEFAULTS, **(special or {})}
        self._special = {name: text_of(named[name]) for name in NAMED if name in named}
        self._tokenizer = _backend(vocab, merges, self._special["unk_token"])
        _add_tokens(self._tokenizer, [named[n] for n in NAMED if n in named], added or {}, extra)
        self.bos_token_id = self._id("bos_token")
        self.eos_token_id = self._id("eos_token")
        self.pad_token_id = self._id("pad_token")
        self.unk_token_id = self._id("unk_token")

    @classmethod
    def from_pretrained(cls, folder: str | Path, subfolder: str | None = None) -> Self:
        """Read a tokenizer folder of transformers 4 or 5. LoadError says which file is missing or unfit."""
        root = locate(str(folder)) / (subfolder or "")
        config = read_json(root / "tokenizer_config.json") if (root / "tokenizer_config.json").is_file() else {}
        vocab, merges, added = read_vocabulary(root)
        special, extra = read_special_tokens(root, config)
        if isinstance(listed := config.get("added_tokens_decoder"), dict):
            added = {int(index): token_from(token) for index, token in listed.items()}
        elif (root / "added_tokens.json").is_file():
            names = {text_of(token) for token in [*special.values(), *extra]}
            listed = read_json(root / "added_tokens.json")
            older = {i: AddedToken(t, normalized=t not in names, special=t in names) for t, i in listed.items()}
            added = older | added
        # A name stands for the added token of that text, with its flags.
        by_text = {token.content: token for token in added.values()}
        length = config.get("model_max_length")
        try:
            return cls(
                vocab,
                merges,
                special={name: by_text.get(text_of(token), token) for name, token in special.items()},
                added=added,
                extra=extra,
                # Files without a length say nothing, or transformers' "very large" number; CLIP's is 77.
                model_max_length=length if isinstance(length, int) and length < 10**6 else 77,
                padding_side=str(config.get("padding_side", "right")),
                truncation_side=str(config.get("truncation_side", "right")),
            )
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise LoadError(f"{root}: vocabulary and merges do not fit ({error}). Fetch the folder again.") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write vocab.json, merges.txt and the configs: the layout that transformers 4 and 5 both read."""
        root = Path(folder)
        added = self._tokenizer.get_added_tokens_decoder()
        vocab = self._tokenizer.get_vocab(with_added_tokens=False)
        in_order = dict(sorted(vocab.items(), key=lambda item: item[1]))
        write_text(root / "vocab.json", json.dumps(in_order, ensure_ascii=False))
        write_text(root / "merges.txt", "\n".join(["#version: 0.2", *(f"{a} {b}" for a, b in self._merges())]) + "\n")
        write_json(root / "special_tokens_map.json", dict(self._special))
        config: dict[str, Any] = {  # JSON of several kinds
            "add_prefix_space": False,
            "added_tokens_decoder": {str(index): flags_of(token) for index, token in sorted(added.items())},
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": self.model_max_length,
            "tokenizer_class": "CLIPTokenizer",
            **self._special,
        }
        sides = {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        config |= {name: side for name, side in sides.items() if side != "right"}
        write_json(root / "tokenizer_config.json", config)

    def encode(self, text: str) -> list[int]:
        """The ids of one text between the begin and end tokens, however long."""
        return [self.bos_token_id, *self._ids(text), self.eos_token_id]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text again, lower case, with single spaces between words."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text.replace(_END_OF_WORD, " ").strip()

    @overload
    def __call__(
        self, text: str, *, padding: Padding = False, max_length: int | None = None, truncation: bool = False
    ) -> Tokens: ...
    @overload
    def __call__(
        self, text: Texts, *, padding: Padding = False, max_length: int | None = None, truncation: bool = False
    ) -> TokenRows: ...
    def __call__(
        self,
        text: str | Texts,
        *,
        padding: Padding = False,
        max_length: int | None = None,
        truncation: bool = False,
    ) -> Tokens | TokenRows:
        """Ids of one text or of several, as transformers gives them without `return_tensors`.

        `padding="max_length"` fills up to `max_length`, `True` or "longest" up to the longest text; `truncation` cuts
        the text so that its ids, end token included, are at most `max_length`, which is `model_max_length` if None.
        """
        length = self.model_max_length if max_length is None else max_length
        if length < 2:
            raise ConfigError(f"max_length: came {length}, wanted 2 or more: the begin and end tokens take two places.")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self._row(one, length if truncation else None) for one in texts]
        wanted = 0
        if padding == "max_length":
            wanted = length
        elif padding:
            wanted = max((len(row) for row in rows), default=0)
        masks = [self._pad([1] * len(row), 0, wanted) for row in rows]
        rows = [self._pad(row, self.pad_token_id, wanted) for row in rows]
        if isinstance(text, str):
            return Tokens(rows[0], masks[0])
        return TokenRows(rows, masks)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def __repr__(self) -> str:
        return f"CLIPTokenizer({len(self)} tokens, model_max_length={self.model_max_length})"

    def _row(self, text: str, length: int | None) -> list[int]:
        ids = self._ids(text)
        if length is not None and len(ids) > length - 2:
            ids = ids[: length - 2] if self.truncation_side == "right" else ids[len(ids) - (length - 2) :]
        return [self.bos_token_id, *ids, self.eos_token_id]

    def _pad(self, row: list[int], filler: int, length: int) -> list[int]:
        fill = [filler] * (length - len(row))
        return row + fill if self.padding_side == "right" else fill + row

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _id(self, name: str) -> int:
        found: int | None = self._tokenizer.token_to_id(self._special[name])
        assert found is not None  # every named token was added
        return found

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


def _add_tokens(
    tokenizer: Tokenizer,
    named: Sequence[str | AddedToken],
    added: Mapping[int, AddedToken],
    extra: Sequence[str | AddedToken],
) -> None:
    """Add tokens in the order of their ids, then named ones not yet there.

    The order matters where files disagree about a token's flags ("normalized" in one, not in another): a later one
    wins, and transformers adds them in this order.
    """
    tokens: list[AddedToken] = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    there = {token.content for token in tokens}
    names = {text_of(token) for token in named}
    late = [token for token in [*named, *extra] if text_of(token) not in there]
    tokens += [AddedToken(token, special=True) if isinstance(token, str) else token for token in late]
    # New objects, for those given may be in use elsewhere.
    flags = [flags_of(token) | {"special": token.special or token.content in names} for token in tokens]
    tokenizer.add_tokens([token_from(each) for each in flags])
