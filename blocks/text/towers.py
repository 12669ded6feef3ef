"""CLIP text encoders, and prompts through several of them, whose tokens stand side by side."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running
from ...graph.errors import UnfitValue
from ...registry import counted
from ..prompts.rules import PromptRules
from .prompts import LongPrompt, Window, empty_window, one_or_each, side_by_side, windows
from .weighted import Texts, weighted


class EncoderOutput(Protocol):
    """The output of an encoder."""

    @property
    def last_hidden_state(self) -> Tensor:
        """The output of the last layer, (rows, tokens, width)."""
        ...


class Encoder(Protocol):
    """An encoder, ours or transformers'."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        ...


class ClipOutput(EncoderOutput, Protocol):
    """The output of a CLIP text encoder."""

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        """The input of the first layer and the output of each, (rows, tokens, width); None where not asked for."""
        ...


class ClipTower(Encoder, Protocol):
    """A CLIP text encoder."""

    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> ClipOutput:
        """Encode token ids (rows, tokens)."""
        ...


class TowerConfig(Protocol):
    """The widths of a CLIP text encoder."""

    @property
    def hidden_size(self) -> int:
        """The width of tokens."""
        ...

    @property
    def projection_dim(self) -> int:
        """The width of the pooled prompt."""
        ...


class Tower(ClipTower, Protocol):
    """A CLIP text encoder with known widths."""

    @property
    def config(self) -> TowerConfig:
        """The widths."""
        ...


class ProjectedOutput(ClipOutput, Protocol):
    """The output of a CLIP text encoder with a projection."""

    @property
    def text_embeds(self) -> Tensor:
        """The pooled prompt, (rows, width)."""
        ...


class ProjectedTower(Tower, Protocol):
    """A CLIP text encoder that also pools the prompt to one vector."""

    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> ProjectedOutput:
        """Encode token ids (rows, tokens)."""
        ...


class Reading(NamedTuple):
    """A text encoder, its tokenizer, and the texts for it; None is ""."""

    tower: Tower
    tokenizer: TextTokenizer
    texts: Texts


class Read(NamedTuple):
    """Encoded texts: tokens (texts, length, sum of widths), and the outputs of each encoder for the first windows."""

    tokens: Tensor
    first: tuple[ClipOutput, ...]

    def pooled(self, tower: int) -> Tensor:
        """The texts pooled, (texts, width), by the encoder of that index; it must have a projection."""
        return cast("ProjectedOutput", self.first[tower]).text_embeds.expand(len(self.tokens), -1)


class Settings(NamedTuple):
    """The settings with which prompts are read.

    rules: of their syntax. skip: how many more layers are left out. long_prompt: see `LongPrompt`. least: so many
    windows are filled, at least.
    """

    rules: PromptRules
    skip: int
    long_prompt: LongPrompt
    least: int


def read(readings: Sequence[Reading], settings: Settings, running: Running) -> Read:
    """The last layer but one of each encoder, side by side (Podell et al. 2023, section 2.1).

    Raises:
        UnfitValue: different numbers of texts, or more layers left out than there are.
    """
    rules, skip, long_prompt, least = settings
    rows = [windows(r.tokenizer, r.texts or [""], rules, long_prompt, running) for r in readings]
    total = one_or_each(rows)
    longest = max(least, *(len(text) for texts in rows for text in texts))
    found: list[Tensor] = []
    first: list[ClipOutput] = []
    for reading, own in zip(readings, rows, strict=True):
        parts = side_by_side(reading.tokenizer, own, longest)
        outputs = [_forward(reading.tower, part) for part in parts]

        @cache
        def empty(r: Reading = reading) -> Tensor:
            return _penultimate(_forward(r.tower, [empty_window(r.tokenizer)]), skip)

        states = [
            weighted(rules, _penultimate(out, skip), [window.weights for window in part], empty)
            for out, part in zip(outputs, parts, strict=True)
        ]
        found.append(torch.cat(states, 1))  # b n d
        first.append(outputs[0])
    total = max(total, *map(len, found))  # adapters that differ between prompts make a row for each prompt
    return Read(torch.cat([tokens.expand(total, -1, -1) for tokens in found], 2), tuple(first))


def _forward(tower: Tower, row: Sequence[Window]) -> ClipOutput:
    ids = torch.tensor([window.ids for window in row], device=tower.device)
    return tower.forward(ids, output_hidden_states=True)


def _penultimate(out: ClipOutput, skip: int) -> Tensor:
    """The last layer but one, before the last norm, as in the training of these families."""
    states = out.hidden_states
    assert states is not None
    if not 0 <= skip <= len(states) - 2:
        raise UnfitValue(
            f"clip_skip={skip}, but this text encoder has {counted(len(states) - 1, 'layer')}, the last not read."
        )
    return states[-(skip + 2)]
