"""Rules of a prompt's syntax: the weights of its words, its changes over the steps, and how weights change tokens."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

from torch import Tensor

from ...graph.errors import ConfigError
from ...graph.validate import Unfit
from ...registry import UnknownName, prompt_rules
from .schedules import Items


class Piece(NamedTuple):
    """A part of a text, and the weight of its words."""

    text: str
    weight: float = 1.0


Part = tuple[Piece, ...]
"""Pieces that share windows. Where the rules have a break, the next part begins in a new window."""


class Token(NamedTuple):
    """A token id, and its weight."""

    id: int
    weight: float = 1.0


class LoraTag(NamedTuple):
    """A LoRA that a prompt names, with its strengths for the text encoders and for the denoiser."""

    name: str
    text_encoders: float = 1.0
    denoiser: float = 1.0


Ids = Callable[[str], Sequence[int]]
"""A tokenizer: a text to ids, without begin and end tokens."""


class PromptRules(ABC):
    """Rules for the syntax of a prompt. `sf.prompts` has the rules of other programs.

    A subclass is a frozen dataclass. Its `parts` returns the weighted pieces of a text, and its `weighted` applies the
    weights to the encoded tokens.
    """

    cuts: ClassVar[bool] = False
    """Whether `long_prompt` applies to a long prompt. Other rules read all of it."""

    @abstractmethod
    def parts(self, text: str) -> Sequence[Part]:
        """The weighted pieces of a text that does not change over the steps."""
        ...

    @abstractmethod
    def written(self, parts: Sequence[Part]) -> str:
        """A text that is read as these parts."""
        ...

    @abstractmethod
    def weighted(self, hidden: Tensor, weights: Tensor, empty: Callable[[], Tensor]) -> Tensor:
        """The encoded tokens with their weights.

        Args:
            hidden: (rows, tokens, width).
            weights: (rows, tokens), or (1, tokens) for all rows.
            empty: gives the encoded empty prompt, (rows, tokens, width) or (1, tokens, width).
        """
        ...

    def over_steps(self, text: str) -> Items:
        """The text with its changes over the steps. Raise UnfitValue for syntax that is not supported."""
        return (text,)

    def lora_tags(self, text: str) -> Sequence[LoraTag]:
        """The LoRAs that a text names."""
        return ()

    @property
    def lora_folder(self) -> Path | None:
        """The folder of the LoRAs that texts name; None if there is none."""
        return None

    def unread(self, text: str) -> str | None:
        """The first syntax of other rules in a text, which is read as words; None without any."""
        return None

    def tokens(self, ids: Ids, text: str) -> list[Token]:
        """All tokens of a text, for an encoder without windows."""
        return [token for part in self.parts(text) for token in tokens_of(ids, part)]

    def chunks(self, ids: Ids, text: str, room: int) -> list[list[Token]]:
        """The tokens of a text, divided into windows with room for `room` of them."""
        tokens = self.tokens(ids, text)
        return [tokens[i : i + room] for i in range(0, max(len(tokens), 1), room)]

    def to_json(self) -> Mapping[str, Any]:
        """The rules in a graph file."""
        return {"rules": type(self).__name__, **{
            f.name: getattr(self, f.name) for f in fields(cast("Any", self)) if getattr(self, f.name) != f.default
        }}  # fmt: skip

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The rules of an entry of a graph file. Raise Unfit for another entry."""
        if not isinstance(data, Mapping) or "rules" not in data:
            raise Unfit(f"needs {{'rules': name}} with one of {', '.join(prompt_rules)}")
        config = dict(cast("Mapping[str, Any]", data))
        try:
            made = cast("type[Any]", prompt_rules[str(config.pop("rules"))])
            known = {f.name for f in fields(made) if f.default is not MISSING and f.name not in made.not_in_files}
            if unknown := config.keys() - known:
                raise Unfit(f"has no {', '.join(sorted(unknown))} in files")
            return made(**config)
        except (UnknownName, ConfigError) as error:
            raise Unfit(str(error)) from None

    not_in_files: ClassVar[frozenset[str]] = frozenset()
    """Fields that a graph file may not have."""


def tokens_of(ids: Ids, part: Part) -> list[Token]:
    """The tokens of a part."""
    return [Token(one, weight) for text, weight in part if text and not text.isspace() for one in ids(text)]


Rules = PromptRules | Literal["plain", "a1111", "comfy"]
"""Rules, or their name."""


def rules_of(rules: PromptRules | str) -> PromptRules:
    """The rules of this name. Rules are returned unchanged."""
    return cast("type[PromptRules]", prompt_rules[rules])() if isinstance(rules, str) else rules
