"""Prompts through one CLIP tower: Stable Diffusion 1.x and 2.x."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ...components.conditioning import Conditioning, SDConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.ports import ALONE

Prompt = str | Sequence[str]


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


class Encoded(NamedTuple):
    conditioning: SDConditioning


class EncodePrompt(Block):
    """Turn each prompt into one row of conditioning.

    `clip_skip` leaves out that many of the tower's last layers. A prompt longer than the tower's window is cut, with a
    note of the words dropped; `long_prompt="chunk"` encodes all of it, a window at a time, side by side.
    """

    text_encoder: ClipTower = component()
    tokenizer: TextTokenizer = component()
    clip_skip: int | None = knob(None)
    long_prompt: Literal["cut", "chunk"] = knob("cut")

    def __call__(self, prompt: Prompt, running: Running = ALONE) -> Encoded:
        running.check()
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("There is no prompt: an empty list came. Give one text or more; '' is a prompt too.")
        windows = [self._windows(text, running) for text in prompts]
        count = max(map(len, windows))
        empty = self._window([])
        rows = [row + [empty] * (count - len(row)) for row in windows]
        parts = [self._encode([row[i] for row in rows]) for i in range(count)]
        return Encoded(SDConditioning(torch.cat(parts, 1)))

    def _windows(self, text: str, running: Running) -> list[list[int]]:
        """A prompt's ids in windows of the tower's length, each with its begin and end token."""
        words = self.tokenizer([text]).input_ids[0][1:-1]
        room = self.tokenizer.model_max_length - 2
        if len(words) > room and self.long_prompt == "cut":
            dropped = self.tokenizer.decode(words[room:]).strip()
            running.note(
                f"The prompt is longer than the {room} tokens that the text encoder reads. Dropped: {dropped!r}. "
                'long_prompt="chunk" encodes all of it.'
            )
            words = words[:room]
        return [self._window(words[i : i + room]) for i in range(0, max(len(words), 1), room)]

    def _window(self, words: list[int]) -> list[int]:
        t = self.tokenizer
        row = [t.bos_token_id, *words, t.eos_token_id]
        filler = t.pad_token_id if t.pad_token_id is not None else t.eos_token_id
        return [i for i in (*row, *[filler] * (t.model_max_length - len(row))) if i is not None]

    def _encode(self, ids: list[list[int]]) -> Tensor:
        tower = self.text_encoder
        rows = torch.tensor(ids, device=tower.device)
        if not self.clip_skip:
            return tower.forward(rows).last_hidden_state  # b n d
        states = tower.forward(rows, output_hidden_states=True).hidden_states
        assert states is not None
        if not 0 < self.clip_skip < len(states):
            raise ValueError(f"clip_skip={self.clip_skip}, but this text encoder has {len(states) - 1} layers.")
        inner: Any = getattr(tower, "text_model", tower)  # Any: transformers 4 nests the tower, 5 and ours do not
        return inner.final_layer_norm(states[-(self.clip_skip + 1)])


class Matched(NamedTuple):
    negative_prompt: tuple[str, ...]


class MatchNegative(Block):
    """Give each prompt its negative prompt: one for all, or one each. Unequal numbers are refused, not repeated."""

    def __call__(self, rows: Rows, negative_prompt: Prompt = "") -> Matched:
        texts = (negative_prompt,) if isinstance(negative_prompt, str) else tuple(negative_prompt)
        if len(texts) not in (1, rows.prompts):
            raise ValueError(
                f"negative_prompt has {len(texts)} texts, but there are {rows.prompts} prompts. "
                "Give one for all, or one each."
            )
        return Matched(texts)


class Expanded(NamedTuple):
    conditioning: Conditioning


class ExpandRows(Block):
    """One row of conditioning for each image: encoded once a prompt, repeated here."""

    def __call__(self, conditioning: Conditioning, rows: Rows) -> Expanded:
        if conditioning.rows not in (1, rows.prompts):
            raise ValueError(
                f"conditioning has {conditioning.rows} rows, but there are {rows.prompts} prompts. "
                "Give one for all, or one each."
            )
        return Expanded(conditioning.expanded(rows.prompts, rows.each))
