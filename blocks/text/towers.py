"""Prompts through several CLIP towers, whose tokens stand side by side."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running
from ...registry import counted
from .prompts import LongPrompt, Prompt, Window, one_or_each, side_by_side, texts, windows


class ClipOutput(Protocol):
    """What a CLIP text tower gives."""

    @property
    def last_hidden_state(self) -> Tensor: ...
    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None: ...


class ClipTower(Protocol):
    """A CLIP text tower, ours or transformers'."""

    @property
    def device(self) -> torch.device: ...
    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> ClipOutput: ...


class TowerConfig(Protocol):
    @property
    def hidden_size(self) -> int: ...
    @property
    def projection_dim(self) -> int: ...


class Tower(ClipTower, Protocol):
    """A CLIP text tower whose widths are known, ours or transformers'."""

    @property
    def config(self) -> TowerConfig: ...


class ProjectedOutput(ClipOutput, Protocol):
    """What a CLIP text tower with a projection gives."""

    @property
    def text_embeds(self) -> Tensor: ...


class ProjectedTower(Tower, Protocol):
    """A CLIP text tower that also gives the prompt as one vector."""

    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> ProjectedOutput: ...


class Reading(NamedTuple):
    """A tower and what it reads; None is read as ""."""

    tower: Tower
    tokenizer: TextTokenizer
    prompt: Prompt | None


class Read(NamedTuple):
    """What towers make of texts: tokens (texts, length, sum of widths), and what each says of the first windows."""

    tokens: Tensor
    first: tuple[ClipOutput, ...]

    def pooled(self, tower: int) -> Tensor:
        """The texts as one vector each, (texts, width), by the tower at that place; it must have a projection."""
        return cast("ProjectedOutput", self.first[tower]).text_embeds.expand(len(self.tokens), -1)


def read(readings: Sequence[Reading], skip: int, long_prompt: LongPrompt, running: Running) -> Read:
    """Each tower's last layer but one, side by side (Podell et al. 2023, section 2.1); `skip` more are left out.

    Raises:
        ValueError: unlike numbers of texts, or more layers left out than there are.
    """
    rows = [windows(r.tokenizer, texts("" if r.prompt is None else r.prompt), long_prompt, running) for r in readings]
    total = one_or_each(rows)
    longest = max(len(text) for texts in rows for text in texts)
    tokens: list[Tensor] = []
    first: list[ClipOutput] = []
    for reading, own in zip(readings, rows, strict=True):
        said = [_ask(reading.tower, part) for part in side_by_side(reading.tokenizer, own, longest)]
        seen = torch.cat([_penultimate(one, skip) for one in said], 1)  # b n d
        tokens.append(seen.expand(total, -1, -1))
        first.append(said[0])
    return Read(torch.cat(tokens, 2), tuple(first))


def _ask(tower: Tower, ids: Sequence[Window]) -> ClipOutput:
    return tower.forward(torch.tensor(ids, device=tower.device), output_hidden_states=True)


def _penultimate(said: ClipOutput, skip: int) -> Tensor:
    """A layer's output before the tower's last norm, as these families were trained to read it."""
    states = said.hidden_states
    assert states is not None
    if not 0 <= skip <= len(states) - 2:
        raise ValueError(
            f"clip_skip={skip}, but this text encoder has {counted(len(states) - 1, 'layer')}, the last not read."
        )
    return states[-(skip + 2)]
