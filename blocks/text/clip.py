"""Prompts through one CLIP tower: Stable Diffusion 1.x and 2.x."""

from typing import Annotated, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...components.conditioning import Conditioning, SDConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ...registry import counted
from .prompts import LongPrompt, Prompt, Skip, Window, matched, side_by_side, texts, windows


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
    conditioning: Annotated[SDConditioning, Measured(token_width=["text_encoder.hidden_size"])]


class EncodePrompt(Block):
    """Turn each prompt into one row of conditioning.

    `clip_skip` leaves out that many of the tower's last layers. For `long_prompt` see `LongPrompt`.
    """

    text_encoder: ClipTower = component()
    tokenizer: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")

    def __call__(self, prompt: Prompt, running: Running = ALONE) -> Encoded:
        rows = windows(self.tokenizer, texts(prompt), self.long_prompt, running)
        parts = [self._encode(part) for part in side_by_side(self.tokenizer, rows)]
        return Encoded(SDConditioning(torch.cat(parts, 1)))

    def _encode(self, ids: list[Window]) -> Tensor:
        tower = self.text_encoder
        rows = torch.tensor(ids, device=tower.device)
        if not self.clip_skip:
            return tower.forward(rows).last_hidden_state  # b n d
        states = tower.forward(rows, output_hidden_states=True).hidden_states
        assert states is not None
        if not 0 < self.clip_skip < len(states):
            raise ValueError(
                f"clip_skip={self.clip_skip}, but this text encoder has {counted(len(states) - 1, 'layer')}."
            )
        inner: Any = getattr(tower, "text_model", tower)  # Any: transformers 4 nests the tower, 5 and ours do not
        return inner.final_layer_norm(states[-(self.clip_skip + 1)])


class Matched(NamedTuple):
    negative_prompt: tuple[str, ...]


class MatchNegative(Block):
    """Give each prompt its negative prompt: one for all, or one each. Unequal numbers are refused, not repeated.

    None is "".
    """

    def __call__(self, rows: Rows, negative_prompt: Prompt | None = None) -> Matched:
        return Matched(matched("negative_prompt", negative_prompt, rows))


class Expanded(NamedTuple):
    conditioning: Conditioning


class ExpandRows(Block):
    """One row of conditioning for each image: encoded once a prompt, repeated here."""

    def __call__(self, conditioning: Conditioning, rows: Rows) -> Expanded:
        if conditioning.rows not in (1, rows.prompts):
            raise ValueError(
                f"conditioning has {counted(conditioning.rows, 'row')} for {counted(rows.prompts, 'prompt')}. "
                "Give one for all, or one each."
            )
        return Expanded(conditioning.expanded(rows.prompts, rows.each))
