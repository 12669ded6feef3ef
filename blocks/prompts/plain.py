"""No syntax: a prompt is words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .rules import Ids, Part, Piece, PromptRules, Token

_OTHER = r"\[[^\[\]]{0,200}[:|][^\[\]]{0,200}\]|\bBREAK\b|<(?:lora|lyco):[^<>]{0,200}>"
_WEIGHTS = r"\([^()\\]{0,200}:\s*[+-]?\d{0,9}\.?\d{1,9}\s*\)|\(\([^()]{0,200}\)\)"
_other, _any = re.compile(_OTHER), re.compile(f"{_WEIGHTS}|{_OTHER}")


def other_syntax(text: str) -> str | None:
    """The first change over the steps, break or LoRA in a text."""
    found = _other.search(text)
    return found[0] if found else None


@dataclass(frozen=True)
class Plain(PromptRules):
    """Read a prompt as words. Parentheses, brackets and numbers are words too."""

    cuts: ClassVar = True

    def parts(self, text: str) -> Sequence[Part]:
        """The text, with weight 1."""
        return ((Piece(text),),)

    def tokens(self, ids: Ids, text: str) -> list[Token]:
        """All tokens of the text."""
        return [Token(one) for one in ids(text)]

    def written(self, parts: Sequence[Part]) -> str:
        """The text."""
        return "".join(piece.text for part in parts for piece in part)

    def weighted(self, hidden: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """The tokens as they are."""
        return hidden

    def unread(self, text: str) -> str | None:
        """The first weight, change over the steps, break or LoRA in the syntax of other programs."""
        found = _any.search(text)
        return found[0] if found else None
