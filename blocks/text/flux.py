"""Prompts for Flux: tokens as T5 sees them, and the whole as CLIP sums it up."""

from typing import Annotated, NamedTuple, Protocol

import torch
from torch import Tensor

from ...components.conditioning import FluxConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from .prompts import Prompt, matched, one_or_each, texts, windows
from .t5 import Length, T5Tower, read_by_t5


class PooledOutput(Protocol):
    """What a CLIP text tower gives."""

    @property
    def pooler_output(self) -> Tensor: ...


class PoolingTower(Protocol):
    """A CLIP text tower, ours or transformers'."""

    @property
    def device(self) -> torch.device: ...
    def forward(self, input_ids: Tensor) -> PooledOutput: ...


class Encoded(NamedTuple):
    conditioning: Annotated[
        FluxConditioning,
        Measured(token_width=["text_encoder_2.d_model"], pooled_width=["text_encoder.hidden_size"]),
    ]


class EncodePrompt(Block):
    """Turn each prompt into one row of conditioning: T5's tokens, and CLIP's summary of the first 77.

    `prompt_2` is what T5 reads, if that is something else. It reads `max_sequence_length` tokens, with a note of the
    words dropped; schnell was trained with 256.
    """

    text_encoder: PoolingTower = component()
    tokenizer: TextTokenizer = component()
    text_encoder_2: T5Tower = component()
    tokenizer_2: TextTokenizer = component()
    max_sequence_length: Length = knob(512)

    def __call__(self, prompt: Prompt, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        first = texts(prompt)
        second = first if prompt_2 is None else texts(prompt_2)
        total = one_or_each([first, second])
        pooled = self._summed_up(first, running)
        tokens = read_by_t5(self.text_encoder_2, self.tokenizer_2, second, self.max_sequence_length, running)
        return Encoded(FluxConditioning(tokens.expand(total, -1, -1), pooled.expand(total, -1)))

    def _summed_up(self, prompts: list[str], running: Running) -> Tensor:
        # The first window of several: T5 reads what CLIP does not, so nothing is dropped and no note is due.
        first = [row[0] for row in windows(self.tokenizer, prompts, "chunk", running)]
        return self.text_encoder.forward(torch.tensor(first, device=self.text_encoder.device)).pooler_output


class Matched(NamedTuple):
    negative_prompt: tuple[str, ...]
    negative_prompt_2: tuple[str, ...] | None


class MatchNegative(Block):
    """Give each prompt its negative prompts: one for all, or one each. Unequal numbers are refused, not repeated.

    A first one of None is "".
    """

    def __call__(
        self, rows: Rows, negative_prompt: Prompt | None = None, negative_prompt_2: Prompt | None = None
    ) -> Matched:
        second = None if negative_prompt_2 is None else matched("negative_prompt_2", negative_prompt_2, rows)
        return Matched(matched("negative_prompt", negative_prompt, rows), second)
