"""The syntax of ComfyUI's text encoders, as its README describes it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .plain import other_syntax
from .rules import Ids, Part, Piece, PromptRules, Token
from .weights import joined, weight_text

_TOKEN = re.compile(r"\\[()]|[()]|[^\\()]+|\\", re.DOTALL)
_WEIGHT = re.compile(r"(.*):\s*([+-]?(?:\d{1,400}\.?\d{0,400}|\.\d{1,400}))\s*", re.DOTALL)
_LONG_WORD = 8  # tokens: longer words are divided between windows


@dataclass(frozen=True)
class Comfy(PromptRules):
    r"""Read prompts as ComfyUI does.

    - `(word)` multiplies the weight by 1.1, and within brackets again. `(word:1.5)` sets it to 1.5, whatever is around
      it. `\(` and `\)` are plain letters.
    - Square brackets, `BREAK` and LoRAs have no meaning: they are words, and a note says so.

    A token z of weight w becomes e + w (z - e), with e the token at that place of the empty prompt. Pooled prompts
    have no weights. All of a long prompt is read, whatever `long_prompt` is; words of less than 8 tokens are not
    divided between windows.
    """

    def parts(self, text: str) -> Sequence[Part]:
        """The weighted pieces, in one part. UnfitValue for infinite weights."""
        return (joined(_pieces(text)),)

    def written(self, parts: Sequence[Part]) -> str:
        """A text that is read as this part."""
        return "".join(map(_written, parts[0]))

    def chunks(self, ids: Ids, text: str, room: int) -> list[list[Token]]:
        """The tokens in windows, which divide only long words."""
        tokens = self.tokens(ids, text)
        if len(tokens) <= room:
            return [tokens]
        windows: list[list[Token]] = [[]]
        for piece in self.parts(text)[0]:
            for word in piece.text.split():
                rest = [Token(one, piece.weight) for one in ids(word)]
                while rest:
                    left = room - len(windows[-1])
                    if len(rest) > left and len(rest) < _LONG_WORD and windows[-1]:
                        windows.append([])
                        continue
                    windows[-1] += rest[:left]
                    rest = rest[left:]
                    if rest:
                        windows.append([])
        return windows

    def weighted(self, hidden: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """`empty + weights * (hidden - empty)` where a weight is not 1."""
        factor, e = weights[..., None].to(hidden.dtype), empty()
        return torch.where(factor == 1, hidden, (hidden - e) * factor + e)

    def unread(self, text: str) -> str | None:
        """The first change over the steps, break or LoRA in the syntax of other programs."""
        return other_syntax(text)


def _pieces(text: str) -> Iterator[Piece]:
    tokens: list[str] = _TOKEN.findall(text)
    partners, explicit = _brackets(tokens)
    closing = {last: first for first, last in partners.items()}
    weights = [1.0]  # outside of all brackets, and inside of each that is open
    for place, token in enumerate(tokens):
        if place in partners:
            weights.append(explicit[partners[place]][1] if partners[place] in explicit else weights[-1] * 1.1)
        elif place in closing:
            weights.pop()
        else:
            words = explicit[place + 1][0] if place + 1 in explicit else token
            yield Piece(words[1] if words in (r"\(", r"\)") else words, weights[-1])


def _brackets(tokens: Sequence[str]) -> tuple[dict[int, int], dict[int, tuple[str, float]]]:
    """Pairs of brackets by their places. And of closing ones with a number: the text before it, and the number."""
    partners: dict[int, int] = {}
    explicit: dict[int, tuple[str, float]] = {}
    opened: list[int] = []
    for place, token in enumerate(tokens):
        if token == "(":
            opened.append(place)
        elif token == ")" and opened:
            first = opened.pop()
            partners[first] = place
            number = _WEIGHT.fullmatch(tokens[place - 1]) if place - 1 > first else None
            if number and (number[1] or place - 2 > first):
                explicit[place] = number[1], float(number[2])
    return partners, explicit


def _written(piece: Piece) -> str:
    text = re.sub(r"([()])", r"\\\1", piece.text)
    if piece.weight == 1 and not text.endswith("\\"):
        return text
    return f"({text}:{weight_text(piece.weight)})"
