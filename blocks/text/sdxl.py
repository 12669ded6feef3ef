"""Prompts for Stable Diffusion XL: through two text towers, or for its refiner through the second alone."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor

from ...components.conditioning import SDXLText
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE
from .clip import ClipOutput, ClipTower
from .prompts import LongPrompt, Prompt, Window, matched, side_by_side, texts, windows


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


class Encoded(NamedTuple):
    text: SDXLText


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
    clip_skip: int | None = knob(None)
    long_prompt: LongPrompt = knob("cut")

    def __call__(self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        first = Reading(self.text_encoder, self.tokenizer, prompt)
        second = Reading(self.text_encoder_2, self.tokenizer_2, prompt if prompt_2 is None else prompt_2)
        return Encoded(_encode((first, second), self.clip_skip or 0, self.long_prompt, running))


class EncodeRefinerPrompt(Block):
    """The same for the refiner, which knows the second tower alone."""

    text_encoder_2: ProjectedTower = component()
    tokenizer_2: TextTokenizer = component()
    clip_skip: int | None = knob(None)
    long_prompt: LongPrompt = knob("cut")

    def __call__(self, prompt: Prompt | None, prompt_2: Prompt | None = None, running: Running = ALONE) -> Encoded:
        second = Reading(self.text_encoder_2, self.tokenizer_2, prompt if prompt_2 is None else prompt_2)
        return Encoded(_encode((second,), self.clip_skip or 0, self.long_prompt, running))


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


class Reading(NamedTuple):
    """A tower and what it reads."""

    tower: Tower
    tokenizer: TextTokenizer
    prompt: Prompt | None


def _encode(readings: Sequence[Reading], skip: int, long_prompt: LongPrompt, running: Running) -> SDXLText:
    """The last reading's tower is the one that pools."""
    if all(r.prompt is None for r in readings):
        return _zeros(readings)
    rows = [windows(r.tokenizer, texts("" if r.prompt is None else r.prompt), long_prompt, running) for r in readings]
    counts = [len(texts) for texts in rows]
    total = max(counts)
    if not {*counts} <= {1, total}:
        told = f"prompt has {counts[0]} texts, and prompt_2 has {counts[-1]}."
        raise ValueError(f"{told} Give one for all, or one each.")
    longest = max(len(text) for texts in rows for text in texts)
    tokens: list[Tensor] = []
    said: list[ClipOutput] = []
    for reading, own in zip(readings, rows, strict=True):
        parts = side_by_side(reading.tokenizer, own, longest)
        said = [_ask(reading.tower, part) for part in parts]
        seen = torch.cat([_penultimate(one, skip) for one in said], 1)  # b n d
        tokens.append(seen.expand(total, -1, -1))
    pooled = cast("ProjectedOutput", said[0]).text_embeds
    return SDXLText(torch.cat(tokens, 2), pooled.expand(total, -1))


def _zeros(readings: Sequence[Reading]) -> SDXLText:
    tower, tokenizer, _ = readings[-1]
    width = sum(r.tower.config.hidden_size for r in readings)
    tokens = torch.zeros(1, tokenizer.model_max_length, width, device=tower.device)
    return SDXLText(tokens, tokens.new_zeros(1, tower.config.projection_dim))


def _ask(tower: Tower, ids: Sequence[Window]) -> ClipOutput:
    return tower.forward(torch.tensor(ids, device=tower.device), output_hidden_states=True)


def _penultimate(said: ClipOutput, skip: int) -> Tensor:
    """A layer's output before the tower's last norm, as SDXL was trained to read it."""
    states = said.hidden_states
    assert states is not None
    if not 0 <= skip <= len(states) - 2:
        raise ValueError(f"clip_skip={skip}, but this text encoder has {len(states) - 1} layers, the last not read.")
    return states[-(skip + 2)]
