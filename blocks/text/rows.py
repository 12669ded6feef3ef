"""Rows of prompts: a negative prompt for each prompt, and a row of conditioning for each picture."""

from typing import NamedTuple

from ...components.types import Conditioning, Rows
from ...graph import Block
from ...registry import counted
from .prompts import Prompt, matched


class Matched(NamedTuple):
    negative_prompt: tuple[str, ...]


class MatchNegative(Block):
    """Give each prompt its negative prompt: one for all, or one each. Unequal numbers are refused, not repeated.

    None is "".
    """

    def __call__(self, rows: Rows, negative_prompt: Prompt | None = None) -> Matched:
        return Matched(matched("negative_prompt", negative_prompt, rows))


class Expanded(NamedTuple):
    conditioning: Conditioning


class ExpandRows(Block):
    """One row of conditioning for each image: encoded once a prompt, repeated here."""

    def __call__(self, conditioning: Conditioning, rows: Rows) -> Expanded:
        if conditioning.rows not in (1, rows.prompts):
            raise ValueError(
                f"conditioning has {counted(conditioning.rows, 'row')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        return Expanded(conditioning.expand(rows.prompts, rows.each))
