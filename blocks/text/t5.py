"""Prompts through T5."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running
from .towers import Encoder, EncoderOutput

Length = Annotated[int, Ge(1), Le(512)]
"""Tokens that T5 reads of a prompt, its end included."""


class T5Tower(Encoder, Protocol):
    """A T5 encoder."""

    def forward(self, input_ids: Tensor) -> EncoderOutput:
        """Encode token ids (rows, tokens)."""
        ...


class MaskedT5Tower(T5Tower, Protocol):
    """A T5 encoder that takes a mask of the padding."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> EncoderOutput:
        """Encode token ids (rows, tokens)."""
        ...


def read_by_t5(
    tower: T5Tower, tokenizer: TextTokenizer, prompts: Sequence[str], length: int, running: Running
) -> Tensor:
    """The tokens of each text, (texts, length, width): padded, or cut with a note of the dropped words.

    Padding is not masked: SD 3 and Flux were trained with it.
    """
    rows, _ = _rows(tokenizer, prompts, length, running)
    return tower.forward(torch.tensor(rows, device=tower.device)).last_hidden_state


def read_masked_by_t5(
    tower: MaskedT5Tower, tokenizer: TextTokenizer, prompts: Sequence[str], length: int, running: Running
) -> tuple[Tensor, Tensor]:
    """The same with the padding masked; and the mask (texts, length), 0 for padding."""
    rows, counts = _rows(tokenizer, prompts, length, running)
    mask = torch.tensor([[1.0] * count + [0.0] * (length - count) for count in counts], device=tower.device)
    return tower.forward(torch.tensor(rows, device=tower.device), attention_mask=mask).last_hidden_state, mask


def _rows(
    tokenizer: TextTokenizer, prompts: Sequence[str], length: int, running: Running
) -> tuple[list[list[int]], list[int]]:
    """A row of ids for each text, and how many of them are the text's own, its end included."""
    running.check()
    filler = tokenizer.pad_token_id or 0  # T5's own
    rows: list[list[int]] = []
    counts: list[int] = []
    for text in prompts:
        words, end = tokenizer([text]).input_ids[0][:-1], tokenizer.eos_token_id
        assert end is not None
        if dropped := words[length - 1 :]:
            running.note(
                f"The prompt is longer than the {length} tokens that are read of it (max_sequence_length). Dropped: "
                f"{tokenizer.decode(dropped).strip()!r}."
            )
        row = [*words[: length - 1], end]
        counts.append(len(row))
        rows.append(row + [filler] * (length - len(row)))
    return rows, counts
