"""What our tokenizers share: a Tokenizer of the `tokenizers` library, called safely by many threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self, overload

from pydantic import JsonValue
from tokenizers import AddedToken, Tokenizer

from ...graph.errors import ConfigError
from ..storage.files import read_json
from .tokenizer_files import NAMED, flags_of, read_special_tokens, text_of, token_from

Texts = list[str] | tuple[str, ...]
Padding = bool | Literal["max_length", "longest"]


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


class FastTokenizer:
    """Text to ids, between the tokens that begin and end a row of this model.

    One object may be called by many threads: padding and truncation are done here, per call, and never set on the
    Tokenizer inside. Special tokens written in the text become their ids, as published.
    """

    files: ClassVar[tuple[tuple[str, ...], ...]]
    """The files that a folder is read from: one group of them must be there whole."""
    defaults: ClassVar[Mapping[str, str | AddedToken]]
    """The named tokens ("eos_token") that the model has where no file says otherwise."""
    longest: ClassVar[int]
    """The `model_max_length` where no file says it."""
    begins: ClassVar[bool] = False
    """Whether a row begins with `bos_token`. It always ends with `eos_token`."""

    def __init__(
        self,
        backend: Tokenizer,
        *,
        special: Mapping[str, str | AddedToken] | None = None,
        added: Mapping[int, AddedToken] | None = None,
        extra: Sequence[str | AddedToken] = (),
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        """`special` maps "bos_token" and the like to tokens; `added` are further tokens by id; `extra`, without one."""
        self.model_max_length = self.longest if model_max_length is None else model_max_length
        self.padding_side, self.truncation_side = padding_side, truncation_side
        named = {**self.defaults, **(special or {})}
        self._special = {name: text_of(named[name]) for name in NAMED if name in named}
        self._tokenizer = backend
        _add_tokens(backend, [named[n] for n in NAMED if n in named], added or {}, extra)
        self.bos_token_id = self._id("bos_token") if self.begins else None
        self.eos_token_id = self._id("eos_token")
        self.pad_token_id = self._id("pad_token")
        self.unk_token_id = self._id("unk_token")
        self._begin = () if self.bos_token_id is None else (self.bos_token_id,)

    def encode(self, text: str) -> list[int]:
        """The ids of one text between the tokens that begin and end a row, however long."""
        return [*self._begin, *self._ids(text), self.eos_token_id]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Text again."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

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
        if length < (least := len(self._begin) + 1):
            takes = "the begin and end tokens take two places" if least == 2 else "the end token takes a place"
            raise ConfigError(f"max_length: came {length}, wanted {least} or more: {takes}.")
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
        return f"{type(self).__name__}({len(self)} tokens, model_max_length={self.model_max_length})"

    def _row(self, text: str, length: int | None) -> list[int]:
        ids = self._ids(text)
        room = len(ids) if length is None else length - len(self._begin) - 1
        if len(ids) > room:
            ids = ids[:room] if self.truncation_side == "right" else ids[len(ids) - room :]
        return [*self._begin, *ids, self.eos_token_id]

    def _pad(self, row: list[int], filler: int, length: int) -> list[int]:
        fill = [filler] * (length - len(row))
        return row + fill if self.padding_side == "right" else fill + row

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _id(self, name: str) -> int:
        found: int | None = self._tokenizer.token_to_id(self._special[name])
        assert found is not None  # every named token was added
        return found

    def _config(self) -> dict[str, JsonValue]:
        """What every `tokenizer_config.json` of ours says."""
        added = self._tokenizer.get_added_tokens_decoder()
        config: dict[str, JsonValue] = {
            "added_tokens_decoder": {str(index): flags_of(token) for index, token in sorted(added.items())},
            "model_max_length": self.model_max_length,
            "tokenizer_class": type(self).__name__,
            **self._special,
        }
        sides = {"padding_side": self.padding_side, "truncation_side": self.truncation_side}
        return config | {name: side for name, side in sides.items() if side != "right"}


@dataclass(frozen=True)
class Told:
    """What the configs of a tokenizer's folder say, whatever its vocabulary is."""

    special: Mapping[str, str | AddedToken]
    added: Mapping[int, AddedToken]
    extra: Sequence[str | AddedToken]
    model_max_length: int | None
    padding_side: str
    truncation_side: str

    @classmethod
    def read(cls, root: Path, added: Mapping[int, AddedToken], changes: Mapping[str, JsonValue] | None = None) -> Self:
        """From the JSON files beside the vocabulary; `added` are the tokens that `tokenizer.json` lists.

        `changes` are keys that hold in place of the file's.
        """
        config = {**read_config(root), **(changes or {})}
        special, extra = read_special_tokens(root, config)
        if isinstance(listed := config.get("added_tokens_decoder"), dict):
            added = {int(index): token_from(token) for index, token in listed.items() if isinstance(token, dict)}
        elif (root / "added_tokens.json").is_file():
            names = {text_of(token) for token in [*special.values(), *extra]}
            listed = read_json(root / "added_tokens.json")
            older = {i: AddedToken(t, normalized=t not in names, special=t in names) for t, i in listed.items()}
            added = {**older, **added}
        # A name stands for the added token of that text, with its flags.
        by_text = {token.content: token for token in added.values()}
        length = config.get("model_max_length")
        return cls(
            special={name: by_text.get(text_of(token), token) for name, token in special.items()},
            added=added,
            extra=extra,
            # Files without a length say nothing, or transformers' "very large" number.
            model_max_length=length if isinstance(length, int) and length < 10**6 else None,
            padding_side=str(config.get("padding_side", "right")),
            truncation_side=str(config.get("truncation_side", "right")),
        )


def read_config(root: Path) -> dict[str, JsonValue]:
    """The `tokenizer_config.json` of a folder; older ones have none."""
    path = root / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


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
