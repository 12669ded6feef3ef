"""Prompts for Stable Diffusion XL: through two text towers, or for its refiner through the second alone."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch

from ...components.conditioning import SDXLText
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from .prompts import LongPrompt, Prompt, Skip, matched
from .towers import ProjectedTower, Reading, Tower, read

_POOLED = ("text_encoder_2.projection_dim",)


class Encoded(NamedTuple):
    text: Annotated[
        SDXLText,
        Measured(token_width=["text_encoder.hidden_size", "text_encoder_2.hidden_size"], pooled_width=_POOLED),
    ]


class EncodedForRefiner(NamedTuple):
    text: Annotated[SDXLText, Measured(token_width=["text_encoder_2.hidden_size"], pooled_width=_POOLED)]


class EncodePrompt(Block):
    """Turn each prompt into one row: tokens as both towers see them, side by side, and pooled by the second.

    `prompt_2` is what the second tower reads, if that is something else. A `prompt` of None is no prompt: zeros, which
    the U-Net was trained to see as that. Tokens are a tower's last layer but one (Podell et al. 2023, section 2.1);
    `clip_skip` leaves out that many more. For `long_prompt` see `LongPrompt`; what is pooled is the first window.
    """

    text_encoder: Tower = component()
    text_encoder_2: ProjectedTower = component()
    tokenizer: TextTokenizer = component()
    tokenizer_2: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")

    def __call__(self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        first = Reading(self.text_encoder, self.tokenizer, prompt)
        second = Reading(self.text_encoder_2, self.tokenizer_2, prompt if prompt_2 is None else prompt_2)
        return Encoded(_encode((first, second), self.clip_skip or 0, self.long_prompt, running))


class EncodeRefinerPrompt(Block):
    """The same for the refiner, which knows the second tower alone."""

    text_encoder_2: ProjectedTower = component()
    tokenizer_2: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")

    def __call__(
        self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE
    ) -> EncodedForRefiner:
        second = Reading(self.text_encoder_2, self.tokenizer_2, prompt if prompt_2 is None else prompt_2)
        return EncodedForRefiner(_encode((second,), self.clip_skip or 0, self.long_prompt, running))


class Matched(NamedTuple):
    negative_prompt: tuple[str, ...] | None
    negative_prompt_2: tuple[str, ...] | None


class MatchNegative(Block):
    """Give each prompt its negative prompts: one for all, or one each. Unequal numbers are refused, not repeated.

    Where none is given it is no prompt at all, or "" with `force_zeros_for_empty_prompt` off: as the checkpoint's index
    says. A "" that is given is encoded in either case.
    """

    force_zeros_for_empty_prompt: bool = True

    def __call__(
        self, rows: Rows, negative_prompt: Prompt | None = None, negative_prompt_2: Prompt | None = None
    ) -> Matched:
        if negative_prompt is None and (negative_prompt_2 is not None or not self.force_zeros_for_empty_prompt):
            negative_prompt = ""
        given = {"negative_prompt": negative_prompt, "negative_prompt_2": negative_prompt_2}
        return Matched(**{name: None if text is None else matched(name, text, rows) for name, text in given.items()})


def _encode(readings: Sequence[Reading], skip: int, long_prompt: LongPrompt, running: Running) -> SDXLText:
    """The last reading's tower is the one that pools."""
    if all(r.prompt is None for r in readings):
        return _zeros(readings)
    said = read(readings, skip, long_prompt, running)
    return SDXLText(said.tokens, said.pooled(-1))


def _zeros(readings: Sequence[Reading]) -> SDXLText:
    tower, tokenizer, _ = readings[-1]
    width = sum(r.tower.config.hidden_size for r in readings)
    tokens = torch.zeros(1, tokenizer.model_max_length, width, device=tower.device)
    return SDXLText(tokens, tokens.new_zeros(1, tower.config.projection_dim))
