"""The base of our tokenizers: a Tokenizer of the `tokenizers` library that many threads may call."""

import copy
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import ClassVar, Literal, Self, overload

from pydantic import JsonValue
from tokenizers import AddedToken, Tokenizer

from ...graph.errors import ConfigError, LoadError, SfumatoError
from ...graph.limits import check_limit
from ...graph.validate import value_text
from ..storage.files import read_json
from .token_map import NO_TOKENS, TokenMap
from .tokenizer_files import NAMED, flags_of, read_special_tokens, text_of, token_from

Texts = list[str] | tuple[str, ...]
Padding = bool | Literal["max_length", "longest"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one text."""

    input_ids: list[int]
    attention_mask: list[int]
    """1 for a token of the text, 0 for padding."""


@dataclass(frozen=True)
class TokenRows:
    """The tokens of several texts: a row for each, as in `Tokens`."""

    input_ids: list[list[int]]
    attention_mask: list[list[int]]


@contextmanager
def tokenizer_errors(what: str) -> Generator[None]:
    """Raise errors of the `tokenizers` library as LoadError. Its panics are no `Exception`."""
    try:
        yield
    except BaseException as error:  # the library raises nothing narrower
        if isinstance(error, SfumatoError) or not (isinstance(error, Exception) or "Panic" in type(error).__name__):
            raise
        raise LoadError(f"{what} ({error}). Fetch the folder again.") from error


def _without_lone_surrogates(text: str) -> str:
    """The text with halves of letters, which programs in UTF-16 leave when they cut a text, as U+FFFD.

    >>> _without_lone_surrogates("a \\ud83d cat \\ud83e\\udd8a") == "a \\ufffd cat \\U0001f98a"
    True
    """
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class FastTokenizer:
    """Turns text into token ids, with the begin and end tokens of the model.

    Many threads may call one object: padding and truncation are done per call, and are not set on the Tokenizer.
    Special tokens that are written in a text become their ids, as published.
    """

    files: ClassVar[tuple[tuple[str, ...], ...]]
    """Groups of files. A folder must have all files of one group."""
    defaults: ClassVar[Mapping[str, str | AddedToken]]
    """The named tokens ("eos_token") for which a folder has no setting."""
    longest: ClassVar[int]
    """The `model_max_length` for which a folder has no setting."""
    begins: ClassVar[bool] = False
    """Whether a row begins with `bos_token`. It always ends with `eos_token`."""
    tokens: TokenMap = NO_TOKENS
    """Words that are read as ids of their own, below 0."""

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
        """Make a tokenizer.

        Args:
            backend: the Tokenizer of the `tokenizers` library. Tokens are added to it.
            special: tokens by their role: "bos_token", "eos_token" …
            added: further tokens by id.
            extra: further tokens without an id.
            model_max_length: the longest row; by default the model's.
            padding_side: "right" or "left".
            truncation_side: "right" or "left".
        """
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
        """The ids of one text with begin and end tokens, not truncated."""
        return [*self._begin, *self._ids(text), self.eos_token_id]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        parts = [
            " ".join(filter(None, map(self.tokens.word_of, ids)))
            if own
            else self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
            for own, ids in groupby(token_ids, lambda index: index < 0)
        ]
        return " ".join(filter(None, parts))

    def with_tokens(self, tokens: TokenMap) -> Self:
        """A tokenizer over the same vocabulary that reads the words of a map as their ids."""
        twin = copy.copy(self)
        twin.tokens = tokens
        return twin

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
        """The ids of one text or several, as transformers returns them without `return_tensors`.

        Args:
            text: one text gives `Tokens`, several give `TokenRows`.
            padding: "max_length" fills rows up to `max_length`; True or "longest" up to the longest row.
            max_length: by default `model_max_length`.
            truncation: whether a row is cut to `max_length`, begin and end tokens included.

        Raises:
            ConfigError: a `max_length` without room for the begin and end tokens.
        """
        length = self.model_max_length if max_length is None else max_length
        if length < (least := len(self._begin) + 1):
            reason = "the begin and end tokens take two places" if least == 2 else "the end token takes a place"
            raise ConfigError(f"max_length: needs {least} or more, got {length}: {reason}.")
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
        ids = self._ids(_without_lone_surrogates(text))
        room = len(ids) if length is None else length - len(self._begin) - 1
        if len(ids) > room:
            ids = ids[:room] if self.truncation_side == "right" else ids[len(ids) - room :]
        return [*self._begin, *ids, self.eos_token_id]

    def _pad(self, row: list[int], filler: int, length: int) -> list[int]:
        fill = [filler] * (length - len(row))
        return row + fill if self.padding_side == "right" else fill + row

    def _ids(self, text: str) -> list[int]:
        found: list[int] = []
        with tokenizer_errors(f"{type(self).__name__} cannot read a text with its vocabulary"):
            for part in self.tokens.parts(text):
                own = isinstance(part, tuple)
                found += part if own else self._tokenizer.encode(part, add_special_tokens=False).ids
        return found

    def _id(self, name: str) -> int:
        index: int | None = self._tokenizer.token_to_id(self._special[name])
        assert index is not None  # every named token was added
        return index

    def _config(self) -> dict[str, JsonValue]:
        """The entries of `tokenizer_config.json` that all our tokenizers write."""
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
class TokenizerConfig:
    """The configs of a tokenizer's folder; its fields are keywords of `FastTokenizer`."""

    special: Mapping[str, str | AddedToken]
    added: Mapping[int, AddedToken]
    extra: Sequence[str | AddedToken]
    model_max_length: int | None
    padding_side: str
    truncation_side: str

    @classmethod
    def read(cls, root: Path, added: Mapping[int, AddedToken], changes: Mapping[str, JsonValue] | None = None) -> Self:
        """Read the JSON files of a folder.

        Args:
            root: the folder.
            added: the tokens that `tokenizer.json` lists.
            changes: keys that replace those of `tokenizer_config.json`.

        Raises:
            LoadError: tokens of the wrong type, too many or too long ones, or a length or side that is none.
        """
        config = {**read_config(root), **(changes or {})}
        try:
            return cls._of(root, added, config)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            what = f"its tokens cannot be read ({error}). Fetch the folder again"
            raise LoadError(f"{root}: {what}.") from error

    @classmethod
    def _of(cls, root: Path, added: Mapping[int, AddedToken], config: Mapping[str, JsonValue]) -> Self:
        special, extra = read_special_tokens(root, config)
        if isinstance(listed := config.get("added_tokens_decoder"), dict):
            added = {int(index): token_from(token) for index, token in listed.items() if isinstance(token, dict)}
        elif (root / "added_tokens.json").is_file():
            names = {text_of(token) for token in [*special.values(), *extra]}
            listed = read_json(root / "added_tokens.json", "vocabulary_bytes")
            older = {i: AddedToken(t, normalized=t not in names, special=t in names) for t, i in listed.items()}
            added = {**older, **added}
        # A named token has the flags of the added token of the same text.
        by_text = {token.content: token for token in added.values()}
        check_limit("added_tokens", len(added) + len(extra))
        check_limit(
            "piece_letters", max(map(len, map(text_of, [*added.values(), *special.values(), *extra])), default=0)
        )
        length = config.get("model_max_length")
        if isinstance(length, int) and length < 1:
            raise ValueError(f"model_max_length needs 1 or more, got {length}")
        sides = [str(config.get(key, "right")) for key in ("padding_side", "truncation_side")]
        if wrong := [side for side in sides if side not in ("left", "right")]:
            raise ValueError(f"padding_side and truncation_side need 'left' or 'right', got {value_text(wrong[0])}")
        return cls(
            special={name: by_text.get(text_of(token), token) for name, token in special.items()},
            added=added,
            extra=extra,
            # Without a length, files have no key or transformers' "very large" number.
            model_max_length=length if isinstance(length, int) and length < 10**6 else None,
            padding_side=sides[0],
            truncation_side=sides[1],
        )


def read_config(root: Path) -> dict[str, JsonValue]:
    """The `tokenizer_config.json` of a folder; {} for older folders, which have none."""
    path = root / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _add_tokens(
    tokenizer: Tokenizer,
    named: Sequence[str | AddedToken],
    added: Mapping[int, AddedToken],
    extra: Sequence[str | AddedToken],
) -> None:
    """Add tokens in the order of their ids, then the named ones that are missing.

    If files differ in a token's flags ("normalized"), the later one counts. transformers has the same order.
    """
    tokens: list[AddedToken] = [token for _, token in sorted(added.items(), key=lambda item: item[0])]
    present = {token.content for token in tokens}
    names = {text_of(token) for token in named}
    late = [token for token in [*named, *extra] if text_of(token) not in present]
    tokens += [AddedToken(token, special=True) if isinstance(token, str) else token for token in late]
    # New objects, since the caller may use its own elsewhere.
    flags = [flags_of(token) | {"special": token.special or token.content in names} for token in tokens]
    tokenizer.add_tokens([token_from(each) for each in flags])
