"""The syntax of AUTOMATIC1111's web UI, as its wiki describes it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...graph.errors import ConfigError, UnfitValue
from ...graph.validate import Unfit
from .loras import loras_in, without_loras
from .rules import Ids, LoraTag, Part, Piece, PromptRules, Token, tokens_of
from .schedules import Items, parse
from .weights import joined, weight_text

_NUMBER = r"[+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})"
_TOKEN = re.compile(rf"\\[()\[\]\\]|:\s*{_NUMBER}\s*\)|[()\[\]]|[^\\()\[\]:]+|[:\\]", re.DOTALL)
_WEIGHT = re.compile(rf":\s*({_NUMBER})\s*\)")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"\bAND\b")
_FACTORS = {"(": 1.1, "[": 1 / 1.1}
_OPENING = {")": "(", "]": "["}
_ESCAPED = {r"\(", r"\)", r"\[", r"\]", r"\\"}


@dataclass(frozen=True)
class A1111(PromptRules):
    r"""Read prompts as AUTOMATIC1111's web UI does.

    - `(word)` multiplies the weight by 1.1 and `[word]` divides it by 1.1; `(word:1.5)` multiplies it by 1.5. Brackets
      within brackets multiply. One that is not closed lasts to the end. `\(` and `\[` are plain letters.
    - `BREAK` fills up the window, so that the words after it are read by themselves.
    - `[a:b:0.4]` is `a` for 0.4 of the steps and then `b`; `[a:b:8]` changes after 8 steps. `[a:0.4]` adds, and
      `[a::0.4]` removes. `[a|b]` changes from step to step.
    - `<lora:name:0.8>` attaches a LoRA of the folder `loras` to this prompt.

    Encoded tokens are multiplied by their weights, then each window of each prompt by one number, so that its mean is
    what it was. Pooled prompts have no weights. All of a long prompt is read, whatever `long_prompt` is.

    Args:
        loras: the folder in which LoRAs are looked up by the stem of their file.
        comma_backtrack: where a window is full and its last comma is at most so many tokens back, the words after the
            comma begin the next window. 0 turns it off.

    Raises:
        ConfigError: fields of other types.
    """

    not_in_files: ClassVar = frozenset({"loras"})

    loras: str | Path | None = None
    comma_backtrack: int = 20

    def __post_init__(self) -> None:
        backtrack: Any = self.comma_backtrack  # Any, and below: whatever the user passes
        if isinstance(backtrack, bool) or not isinstance(backtrack, int) or backtrack < 0:
            raise ConfigError(f"A1111.comma_backtrack needs a number of tokens, 0 or more. Got {backtrack!r}.")
        folder: Any = self.loras
        if not isinstance(folder, str | Path | None):
            raise ConfigError(f"A1111.loras needs the path of a folder. Got {folder!r}.")

    def over_steps(self, text: str) -> Items:
        """The text without LoRAs, with its switches and alternations.

        Raises:
            UnfitValue: `AND`, which joins several prompts in that program.
        """
        text = without_loras(text)
        if _AND.search(text):
            raise UnfitValue(
                "The prompt has AND, which joins several prompts into one picture in A1111. That is not supported. "
                'Write "and" for the word.'
            )
        return parse(text)

    def lora_tags(self, text: str) -> Sequence[LoraTag]:
        """The LoRAs that a text names."""
        return loras_in(text)

    @property
    def lora_folder(self) -> Path | None:
        """The folder of the LoRAs that texts name; None if there is none."""
        return None if self.loras is None else Path(self.loras)

    def parts(self, text: str) -> Sequence[Part]:
        """The weighted pieces between breaks. UnfitValue for infinite weights."""
        parts: list[list[Piece]] = [[]]
        for piece in _pieces(text):
            if piece is None:
                parts.append([])
            else:
                parts[-1].append(piece)
        last = len(parts) - 1
        return tuple(_trimmed(joined(part), i > 0, i < last) for i, part in enumerate(parts))

    def written(self, parts: Sequence[Part]) -> str:
        """A text that is read as these parts."""
        return " BREAK ".join("".join(map(_written, part)) for part in parts)

    def chunks(self, ids: Ids, text: str, room: int) -> list[list[Token]]:
        """The tokens in windows; breaks begin new ones, and full ones go back to their last comma."""
        comma = list(ids(","))
        of_comma = comma[0] if len(comma) == 1 else None
        found = [window for part in self.parts(text) for window in self._filled(tokens_of(ids, part), of_comma, room)]
        return found[:-1] if len(found) > 1 and not found[-1] else found

    def _filled(self, tokens: Sequence[Token], comma: int | None, room: int) -> list[list[Token]]:
        """Windows of tokens, one at least."""
        full: list[list[Token]] = []
        window: list[Token] = []
        last_comma = -1
        for token in tokens:
            if len(window) == room:
                cut = room
                if token.id != comma and last_comma >= 0 and room - last_comma <= self.comma_backtrack:
                    cut = last_comma + 1
                full.append(window[:cut])
                window, last_comma = window[cut:], -1
            if token.id == comma:
                last_comma = len(window)
            window.append(token)
        return [*full, window]

    def weighted(self, hidden: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """`hidden * weights`, with the mean of each row brought back to that of `hidden`."""
        made = hidden * weights[..., None].to(hidden.dtype)
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        before, after = (t.mean((1, 2), keepdim=True, dtype=exact) for t in (hidden, made))
        ratio = torch.where(after == 0, 1.0, before / after)
        changed = (weights != 1).any(1)[:, None, None]
        return torch.where(changed, made * ratio.to(hidden.dtype), hidden)

    def to_json(self) -> dict[str, Any]:
        """The rules in a graph file, which may not name a folder of LoRAs."""
        if self.loras is not None:
            raise Unfit("names a folder of LoRAs, which a file cannot hold. Pass prompts=sf.prompts.A1111(…) in calls.")
        return dict(super().to_json())


def _trimmed(part: Part, begin: bool, end: bool) -> Part:
    """The part without white space beside breaks, also where brackets have made a piece of it."""
    first = next((i for i, piece in enumerate(part) if piece.text.strip()), len(part)) if begin else 0
    last = max((i for i, piece in enumerate(part) if piece.text.strip()), default=-1) if end else len(part) - 1
    kept = list(part[first : last + 1])
    if kept and begin:
        kept[0] = kept[0]._replace(text=kept[0].text.lstrip())
    if kept and end:
        kept[-1] = kept[-1]._replace(text=kept[-1].text.rstrip())
    return tuple(kept)


def _pieces(text: str) -> Iterator[Piece | None]:
    """The pieces of a text; None is a break."""
    tokens: list[str] = _TOKEN.findall(text)
    factors, partners = _brackets(tokens)
    opened: list[int] = []
    weights = [1.0]  # outside of all brackets, and inside of each that is open
    for place, token in enumerate(tokens):
        if place in factors:
            opened.append(place)
            weights.append(weights[-1] * factors[place])
        elif place in partners:
            first = opened.index(partners[place]) if opened[-1] != partners[place] else len(opened) - 1
            after = opened[first + 1 :]  # brackets of the other kind that close later
            del opened[first:], weights[first + 1 :]
            for later in after:
                opened.append(later)
                weights.append(weights[-1] * factors[later])
        elif token in _ESCAPED:
            yield Piece(token[1], weights[-1])
        else:
            for number, words in enumerate(_BREAK.split(token)):
                if number:
                    yield None
                yield Piece(words, weights[-1])


def _brackets(tokens: Sequence[str]) -> tuple[dict[int, float], dict[int, int]]:
    """The factor of each opening bracket, and the opening bracket of each closing one, by their places."""
    factors: dict[int, float] = {}
    partners: dict[int, int] = {}
    opened: dict[str, list[int]] = {"(": [], "[": []}
    for place, token in enumerate(tokens):
        if token in _FACTORS:
            opened[token].append(place)
            factors[place] = _FACTORS[token]
            continue
        number = _WEIGHT.fullmatch(token)
        bracket = "(" if number else _OPENING.get(token)
        if bracket and opened[bracket]:
            partners[place] = opened[bracket].pop()
            if number:
                factors[partners[place]] = float(number[1])
    return factors, partners


def _written(piece: Piece) -> str:
    text = re.sub(r"([()\[\]\\])", r"\\\1", piece.text)
    text = re.sub(r"\bBREAK\b", "BRE(AK:1)", text)  # the word, which brackets had split
    return text if piece.weight == 1 else f"({text}:{weight_text(piece.weight)})"
