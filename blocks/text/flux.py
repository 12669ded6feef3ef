"""Prompts for Flux: tokens of T5, and the prompt pooled by CLIP."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ..prompts.rules import PromptRules, Rules, rules_of
from .prompts import Prompt, matched, one_or_each, windows
from .t5 import Length, T5Reading, T5Tower, read_by_t5
from .towers import Encoder
from .weighted import Texts, over_steps


class PooledOutput(Protocol):
    """The output of a CLIP text encoder."""

    @property
    def pooler_output(self) -> Tensor:
        """The pooled prompt, (texts, width)."""
        ...


class PoolingTower(Encoder, Protocol):
    """A CLIP text encoder that pools."""

    def forward(self, input_ids: Tensor) -> PooledOutput:
        """Encode token ids (texts, tokens)."""
        ...


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[
        FluxConditioning,
        Measured(token_width=["text_encoder_2.d_model"], pooled_width=["text_encoder.hidden_size"]),
    ]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row of conditioning: tokens of T5, and its first 77 tokens pooled by CLIP.

    prompt_2: for T5; None is `prompt`. max_sequence_length: tokens that T5 reads; the words after them are dropped,
    with a note. schnell was trained with 256. prompts: the rules of the syntax (`sf.prompts`), or their name; "plain"
    reads words alone. The pooled prompt has no weights.

    Raises:
        UnfitValue: no text, or different numbers of texts.
    """

    text_encoder: PoolingTower = component()
    tokenizer: TextTokenizer = component()
    text_encoder_2: T5Tower = component()
    tokenizer_2: TextTokenizer = component()
    max_sequence_length: Length = knob(512)
    prompts: Rules = knob("plain")

    def __call__(self, prompt: Prompt, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        rules = rules_of(self.prompts)
        reading = T5Reading(self.text_encoder_2, self.tokenizer_2, self.max_sequence_length, rules)

        def encode(texts: Sequence[Texts], least: int) -> FluxConditioning:
            first, second = texts[0] or [""], texts[1] or [""]
            total = one_or_each([first, second])
            pooled = self._pooled(first, rules, running)
            tokens = read_by_t5(reading, second, running)
            return FluxConditioning(tokens.expand(total, -1, -1), pooled.expand(total, -1))

        return Encoded(over_steps(rules, (prompt, prompt if prompt_2 is None else prompt_2), running, encode))

    def _pooled(self, prompts: list[str], rules: PromptRules, running: Running) -> Tensor:
        # The first window of several. T5 reads the rest, so nothing is dropped and there is no note.
        first = [row[0].ids for row in windows(self.tokenizer, prompts, rules, "chunk", running)]
        return self.text_encoder.forward(torch.tensor(first, device=self.text_encoder.device)).pooler_output


class Matched(NamedTuple):
    """Negative prompts, one for all or one for each prompt."""

    negative_prompt: tuple[str, ...]
    negative_prompt_2: tuple[str, ...] | None


class MatchNegative(Block):
    """Match negative prompts with prompts: one for all, or one each; a `negative_prompt` of None is "".

    Raises:
        UnfitValue: another number of negative prompts.
    """

    def __call__(
        self, rows: Rows, negative_prompt: Prompt | None = None, negative_prompt_2: Prompt | None = None
    ) -> Matched:
        second = None if negative_prompt_2 is None else matched("negative_prompt_2", negative_prompt_2, rows)
        return Matched(matched("negative_prompt", negative_prompt, rows), second)
