"""Prompts for Stable Diffusion 3: through two CLIP text encoders and T5, which may be left out."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...components.conditioning import SD3Conditioning
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Count, Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ..prompts.rules import PromptRules, Rules, rules_of
from .prompts import LongPrompt, Prompt, Skip, matched, one_or_each
from .t5 import Length, T5Reading, T5Tower, read_by_t5
from .towers import ProjectedTower, Read, Reading, Settings, read
from .weighted import Texts, over_steps

_POOLED = ("text_encoder.projection_dim", "text_encoder_2.projection_dim")


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[SD3Conditioning, Measured(token_width=["text_encoder_3.d_model"], pooled_width=_POOLED)]


class EncodedWithoutT5(NamedTuple):
    """Conditioning, a row for each text, with zeros for the tokens of T5."""

    conditioning: Annotated[SD3Conditioning, Measured(token_width=["width"], pooled_width=_POOLED)]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row: tokens of both CLIPs side by side, then T5's; pooled by both CLIPs.

    prompt_2, prompt_3: for the second CLIP and for T5; None is `prompt`. max_sequence_length: tokens that T5 reads; the
    words after them are dropped, with a note. CLIP's tokens are its last layer but one (Esser et al. 2024, section 4);
    clip_skip: how many more are left out. long_prompt: see `LongPrompt`. prompts: the rules of the syntax
    (`sf.prompts`), or their name; "plain" reads words alone.

    Raises:
        UnfitValue: no text, different numbers of texts, or a `clip_skip` of more layers than there are.
    """

    text_encoder: ProjectedTower = component()
    text_encoder_2: ProjectedTower = component()
    text_encoder_3: T5Tower = component()
    tokenizer: TextTokenizer = component()
    tokenizer_2: TextTokenizer = component()
    tokenizer_3: TextTokenizer = component()
    max_sequence_length: Length = knob(256)
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")
    prompts: Rules = knob("plain")

    def __call__(
        self,
        prompt: Prompt,
        prompt_2: Prompt | None = None,
        prompt_3: Prompt | None = None,
        running: Running = ALONE,
    ) -> Encoded:
        rules = rules_of(self.prompts)
        reading = T5Reading(self.text_encoder_3, self.tokenizer_3, self.max_sequence_length, rules)

        def encode(texts: Sequence[Texts], least: int) -> SD3Conditioning:
            one_or_each([own or [""] for own in texts])
            seen = _by_clip(self, texts, rules, least, running)
            return _joined(seen, read_by_t5(reading, texts[2] or [""], running))

        prompts = [prompt, *(prompt if other is None else other for other in (prompt_2, prompt_3))]
        return Encoded(over_steps(rules, prompts, running, encode, (self.tokenizer, self.tokenizer_2)))


class EncodePromptWithoutT5(Block):
    """`EncodePrompt` without T5: zeros in place of its tokens, as in a part of training.

    width: of the tokens that the transformer reads (`joint_attention_dim`).
    """

    text_encoder: ProjectedTower = component()
    text_encoder_2: ProjectedTower = component()
    tokenizer: TextTokenizer = component()
    tokenizer_2: TextTokenizer = component()
    width: Count = 4096
    max_sequence_length: Length = knob(256)
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")
    prompts: Rules = knob("plain")

    def __call__(self, prompt: Prompt, prompt_2: Prompt | None = None, running: Running = ALONE) -> EncodedWithoutT5:
        rules = rules_of(self.prompts)

        def encode(texts: Sequence[Texts], least: int) -> SD3Conditioning:
            seen = _by_clip(self, texts, rules, least, running)
            return _joined(seen, seen.tokens.new_zeros(1, self.max_sequence_length, self.width))

        prompts = prompt, prompt if prompt_2 is None else prompt_2
        return EncodedWithoutT5(over_steps(rules, prompts, running, encode, (self.tokenizer, self.tokenizer_2)))


def _by_clip(
    block: EncodePrompt | EncodePromptWithoutT5,
    texts: Sequence[Texts],
    rules: PromptRules,
    least: int,
    running: Running,
) -> Read:
    first = Reading(block.text_encoder, block.tokenizer, texts[0])
    second = Reading(block.text_encoder_2, block.tokenizer_2, texts[1])
    return read((first, second), Settings(rules, block.clip_skip or 0, block.long_prompt, least), running)


def _joined(seen: Read, by_t5: Tensor) -> SD3Conditioning:
    """CLIP's tokens, padded with zeros to the width of T5's, then T5's."""
    total = max(len(seen.tokens), len(by_t5))
    by_clip = pad(seen.tokens, (0, by_t5.shape[2] - seen.tokens.shape[2]))
    tokens = torch.cat([by_clip.expand(total, -1, -1), by_t5.expand(total, -1, -1)], 1)
    pooled = torch.cat([seen.pooled(0), seen.pooled(1)], 1)
    return SD3Conditioning(tokens, pooled.expand(total, -1))


class Matched(NamedTuple):
    """Negative prompts, one for all or one for each prompt."""

    negative_prompt: tuple[str, ...]
    negative_prompt_2: tuple[str, ...] | None
    negative_prompt_3: tuple[str, ...] | None


class MatchNegative(Block):
    """Match negative prompts with prompts: one for all, or one each; a `negative_prompt` of None is "".

    Raises:
        UnfitValue: another number of negative prompts.
    """

    def __call__(
        self,
        rows: Rows,
        negative_prompt: Prompt | None = None,
        negative_prompt_2: Prompt | None = None,
        negative_prompt_3: Prompt | None = None,
    ) -> Matched:
        given = {"negative_prompt_2": negative_prompt_2, "negative_prompt_3": negative_prompt_3}
        others = {name: None if text is None else matched(name, text, rows) for name, text in given.items()}
        return Matched(matched("negative_prompt", negative_prompt, rows), **others)
