"""Prompts through T5."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol, cast

import torch
from annotated_types import Ge, Le
from torch import Tensor

from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running
from ..prompts.rules import PromptRules, Token
from .towers import Encoder, EncoderOutput
from .weighted import weighted

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


class T5Reading(NamedTuple):
    """The settings with which T5 reads texts.

    tower, tokenizer: of T5. length: tokens that are read of each text. rules: of the syntax. lower_case: whether texts
    are read in lower case.
    """

    tower: T5Tower
    tokenizer: TextTokenizer
    length: int
    rules: PromptRules
    lower_case: bool = False


def read_by_t5(reading: T5Reading, prompts: Sequence[str], running: Running) -> Tensor:
    """The tokens of each text, (texts, length, width): padded, or cut with a note of the dropped words.

    Padding is not masked: SD 3 and Flux were trained with it.
    """

    def encode(rows: Sequence[Sequence[Token]]) -> Tensor:
        return reading.tower.forward(_ids(reading, rows)).last_hidden_state

    rows = _rows(reading, prompts, running)
    return weighted(reading.rules, encode(rows), _weights(reading, rows), lambda: encode(_rows(reading, [""], running)))


def read_masked_by_t5(reading: T5Reading, prompts: Sequence[str], running: Running) -> tuple[Tensor, Tensor]:
    """The same with the padding masked; and the mask (texts, length), 0 for padding."""
    tower = cast("MaskedT5Tower", reading.tower)

    def encode(rows: Sequence[Sequence[Token]]) -> tuple[Tensor, Tensor]:
        counts = map(len, rows)
        mask = torch.tensor([[1.0] * n + [0.0] * (reading.length - n) for n in counts], device=tower.device)
        return tower.forward(_ids(reading, rows), attention_mask=mask).last_hidden_state, mask

    rows = _rows(reading, prompts, running)
    hidden, mask = encode(rows)
    empty = _rows(reading, [""], running)
    return weighted(reading.rules, hidden, _weights(reading, rows), lambda: encode(empty)[0]), mask


def _rows(reading: T5Reading, prompts: Sequence[str], running: Running) -> list[list[Token]]:
    """The tokens of each text, its end included, without padding."""
    running.check()
    tokenizer, length, end = reading.tokenizer, reading.length, reading.tokenizer.eos_token_id
    assert end is not None

    def ids(words: str) -> list[int]:
        return tokenizer([words.lower() if reading.lower_case else words]).input_ids[0][:-1]

    rows: list[list[Token]] = []
    for text in prompts:
        words = reading.rules.tokens(ids, text.strip() if reading.lower_case else text)
        if dropped := words[length - 1 :]:
            running.note(
                f"The prompt is longer than the {length} tokens that are read of it (max_sequence_length). Dropped: "
                f"{tokenizer.decode([token.id for token in dropped]).strip()!r}."
            )
        rows.append([*words[: length - 1], Token(end)])
    return rows


def _ids(reading: T5Reading, rows: Sequence[Sequence[Token]]) -> Tensor:
    filler = reading.tokenizer.pad_token_id or 0  # T5's own
    padded = [[*(token.id for token in row), *[filler] * (reading.length - len(row))] for row in rows]
    return torch.tensor(padded, device=reading.tower.device)


def _weights(reading: T5Reading, rows: Sequence[Sequence[Token]]) -> list[list[float]]:
    return [[*(token.weight for token in row), *[1.0] * (reading.length - len(row))] for row in rows]
