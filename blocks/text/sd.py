"""Prompts for Stable Diffusion 1.x and 2.x: through one CLIP text encoder."""

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from ...components.conditioning import SDConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...graph import Block, Running, component, knob
from ...graph.errors import UnfitValue
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ...registry import counted
from .prompts import LongPrompt, Prompt, Skip, Window, side_by_side, texts, windows
from .towers import ClipTower


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[SDConditioning, Measured(token_width=["text_encoder.hidden_size"])]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row of conditioning, through CLIP.

    clip_skip: how many of the last layers are left out. long_prompt: see `LongPrompt`.

    Raises:
        UnfitValue: no text, or a `clip_skip` of all layers or more.
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
        encoder = self.text_encoder
        rows = torch.tensor(ids, device=encoder.device)
        if not self.clip_skip:
            return encoder.forward(rows).last_hidden_state  # b n d
        states = encoder.forward(rows, output_hidden_states=True).hidden_states
        assert states is not None
        if not 0 < self.clip_skip < len(states):
            raise UnfitValue(
                f"clip_skip={self.clip_skip}, but this text encoder has {counted(len(states) - 1, 'layer')}."
            )
        inner: Any = getattr(encoder, "text_model", encoder)  # Any: transformers 4 nests the encoder, 5 and ours do not
        return inner.final_layer_norm(states[-(self.clip_skip + 1)])
