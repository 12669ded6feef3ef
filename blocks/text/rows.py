"""Rows of prompts: a negative prompt for each prompt, and a row of conditioning for each picture."""

from typing import NamedTuple

from ...components.types import Conditioning, Rows
from ...graph import Block
from ...graph.errors import UnfitValue
from ...registry import counted
from .prompts import Prompt, matched


class Matched(NamedTuple):
    """Negative prompts, one for all or one for each prompt."""

    negative_prompt: tuple[str, ...]


class MatchNegative(Block):
    """Match negative prompts with prompts: one for all, or one each; None is "".

    Raises:
        UnfitValue: another number of negative prompts.
    """

    def __call__(self, rows: Rows, negative_prompt: Prompt | None = None) -> Matched:
        return Matched(matched("negative_prompt", negative_prompt, rows))


class Expanded(NamedTuple):
    """Conditioning with a row for each picture to make."""

    conditioning: Conditioning


class ExpandRows(Block):
    """Repeat rows of conditioning: a prompt is encoded once, and each of its pictures has a row.

    Raises:
        UnfitValue: neither one row, nor one for each prompt.
    """

    def __call__(self, conditioning: Conditioning, rows: Rows) -> Expanded:
        if conditioning.rows not in (1, rows.prompts):
            raise UnfitValue(
                f"conditioning has {counted(conditioning.rows, 'row')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        return Expanded(conditioning.expand(rows.prompts, rows.each))
