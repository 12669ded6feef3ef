"""Prompts for Stable Diffusion 1.x and 2.x: through one CLIP text encoder."""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ...registry import counted
from .prompts import LongPrompt, Prompt, Skip, Window, side_by_side, texts, windows
from .towers import ClipTower


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
