"""Prompts of training that the data does not have."""

from typing import NamedTuple

from ...graph import Block
from ..text.prompts import Prompt


class Worded(NamedTuple):
    """A prompt for all rows."""

    prompt: Prompt


class MakePrompt(Block):
    """Make one prompt for all rows, for pictures without captions. text: the prompt; "" is none."""

    text: str = ""

    def __call__(self) -> Worded:
        return Worded(self.text)
