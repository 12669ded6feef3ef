"""Prompts through T5, as image models read it."""

from collections.abc import Sequence
from typing import Annotated, Protocol

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running

Length = Annotated[int, Ge(1), Le(512)]
"""Tokens that T5 reads of a prompt, its end included."""


class T5Output(Protocol):
    """What a T5 encoder gives."""

    @property
    def last_hidden_state(self) -> Tensor: ...


class T5Tower(Protocol):
    """An encoder of T5, ours or transformers'."""

    @property
    def device(self) -> torch.device: ...
    def forward(self, input_ids: Tensor) -> T5Output: ...


def read_by_t5(
    tower: T5Tower, tokenizer: TextTokenizer, prompts: Sequence[str], length: int, running: Running
) -> Tensor:
    """What T5 makes of each text, (texts, length, width): cut, with a note of what is dropped, or filled up.

    Filling is not masked: image models were trained to see it.
    """
    running.check()
    filler = tokenizer.pad_token_id or 0  # T5's own
    rows: list[list[int]] = []
    for text in prompts:
        words, end = tokenizer([text]).input_ids[0][:-1], tokenizer.eos_token_id
        assert end is not None
        if dropped := words[length - 1 :]:
            running.note(
                f"The prompt is longer than the {length} tokens that are read of it (max_sequence_length). Dropped: "
                f"{tokenizer.decode(dropped).strip()!r}."
            )
        row = [*words[: length - 1], end]
        rows.append(row + [filler] * (length - len(row)))
    return tower.forward(torch.tensor(rows, device=tower.device)).last_hidden_state
