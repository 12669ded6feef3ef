"""Prompts for Stable Diffusion XL: through two CLIP text encoders, or for its refiner through the second alone."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch

from ...components.conditioning import SDXLText
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ..prompts.rules import Rules, rules_of
from .prompts import LongPrompt, Prompt, Skip, matched
from .towers import ProjectedTower, Reading, Settings, Tower, read
from .weighted import Texts, over_steps

_POOLED = ("text_encoder_2.projection_dim",)


class Encoded(NamedTuple):
    """The encoded prompt, a row for each text."""

    text: Annotated[
        SDXLText,
        Measured(token_width=["text_encoder.hidden_size", "text_encoder_2.hidden_size"], pooled_width=_POOLED),
    ]


class EncodedForRefiner(NamedTuple):
    """The encoded prompt, a row for each text, by the second text encoder alone."""

    text: Annotated[SDXLText, Measured(token_width=["text_encoder_2.hidden_size"], pooled_width=_POOLED)]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row: tokens of both text encoders side by side, pooled by the second.

    prompt: None is no prompt: zeros, as in training. prompt_2: for the second encoder; None is `prompt`. Tokens are the
    last layer but one (Podell et al. 2023, section 2.1); clip_skip: how many more are left out. long_prompt: see
    `LongPrompt`; the first window is pooled. prompts: the rules of the syntax (`sf.prompts`), or their name; "plain"
    reads words alone.

    Raises:
        UnfitValue: no text, different numbers of texts, or a `clip_skip` of more layers than there are.
    """

    text_encoder: Tower = component()
    text_encoder_2: ProjectedTower = component()
    tokenizer: TextTokenizer = component()
    tokenizer_2: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")
    prompts: Rules = knob("plain")

    def __call__(self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        towers = (self.text_encoder, self.tokenizer), (self.text_encoder_2, self.tokenizer_2)
        return Encoded(_encode(self, towers, (prompt, prompt if prompt_2 is None else prompt_2), running))


class EncodeRefinerPrompt(Block):
    """`EncodePrompt` for the refiner, which reads the second text encoder alone."""

    text_encoder_2: ProjectedTower = component()
    tokenizer_2: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")
    prompts: Rules = knob("plain")

    def __call__(
        self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE
    ) -> EncodedForRefiner:
        towers = ((self.text_encoder_2, self.tokenizer_2),)
        return EncodedForRefiner(_encode(self, towers, (prompt if prompt_2 is None else prompt_2,), running))


class Matched(NamedTuple):
    """Negative prompts, one for all or one for each prompt; None is no prompt."""

    negative_prompt: tuple[str, ...] | None
    negative_prompt_2: tuple[str, ...] | None


class MatchNegative(Block):
    """Match negative prompts with prompts: one for all, or one each.

    force_zeros_for_empty_prompt: no negative prompt is zeros; off, it is "". The checkpoint's index says which. A ""
    that is passed is encoded in either case.

    Raises:
        UnfitValue: another number of negative prompts.
    """

    force_zeros_for_empty_prompt: bool = True

    def __call__(
        self, rows: Rows, negative_prompt: Prompt | None = None, negative_prompt_2: Prompt | None = None
    ) -> Matched:
        if negative_prompt is None and (negative_prompt_2 is not None or not self.force_zeros_for_empty_prompt):
            negative_prompt = ""
        given = {"negative_prompt": negative_prompt, "negative_prompt_2": negative_prompt_2}
        return Matched(**{name: None if text is None else matched(name, text, rows) for name, text in given.items()})


def _encode(
    block: EncodePrompt | EncodeRefinerPrompt,
    towers: Sequence[tuple[Tower, TextTokenizer]],
    prompts: Sequence[Prompt | None],
    running: Running,
) -> SDXLText:
    """The rows of all texts; the last encoder pools."""
    if all(prompt is None for prompt in prompts):
        return _zeros(towers)
    rules = rules_of(block.prompts)

    def encode(texts: Sequence[Texts], least: int) -> SDXLText:
        readings = [Reading(*tower, own) for tower, own in zip(towers, texts, strict=True)]
        out = read(readings, Settings(rules, block.clip_skip or 0, block.long_prompt, least), running)
        return SDXLText(out.tokens, out.pooled(-1))

    return over_steps(rules, prompts, running, encode, [tokenizer for _, tokenizer in towers])


def _zeros(towers: Sequence[tuple[Tower, TextTokenizer]]) -> SDXLText:
    tower, tokenizer = towers[-1]
    width = sum(one.config.hidden_size for one, _ in towers)
    tokens = torch.zeros(1, tokenizer.model_max_length, width, device=tower.device)
    return SDXLText(tokens, tokens.new_zeros(1, tower.config.projection_dim))
