"""Prompts for Stable Diffusion 1.x and 2.x: through one CLIP text encoder."""

from collections.abc import Sequence
from functools import cache
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
from ..prompts.rules import Rules, rules_of
from .prompts import LongPrompt, Prompt, Skip, Window, empty_window, side_by_side, windows
from .towers import ClipTower
from .weighted import Texts, over_steps, weighted


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[SDConditioning, Measured(token_width=["text_encoder.hidden_size"])]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row of conditioning, through CLIP.

    clip_skip: how many of the last layers are left out. long_prompt: see `LongPrompt`. prompts: the rules of the syntax
    (`sf.prompts`), or their name; "plain" reads words alone.

    Raises:
        UnfitValue: no text, or a `clip_skip` of all layers or more.
    """

    text_encoder: ClipTower = component()
    tokenizer: TextTokenizer = component()
    clip_skip: Skip = knob(None)
    long_prompt: LongPrompt = knob("cut")
    prompts: Rules = knob("plain")

    def __call__(self, prompt: Prompt, running: Running = ALONE) -> Encoded:
        rules = rules_of(self.prompts)

        @cache
        def empty() -> Tensor:
            return self._encode([empty_window(self.tokenizer)])

        def encode(texts: Sequence[Texts], least: int) -> SDConditioning:
            rows = windows(self.tokenizer, texts[0] or [""], rules, self.long_prompt, running)
            parts = [
                weighted(rules, self._encode(part), [window.weights for window in part], empty)
                for part in side_by_side(self.tokenizer, rows, least)
            ]
            return SDConditioning(torch.cat(parts, 1))

        return Encoded(over_steps(rules, (prompt,), running, encode, (self.tokenizer,)))

    def _encode(self, row: list[Window]) -> Tensor:
        encoder = self.text_encoder
        rows = torch.tensor([window.ids for window in row], device=encoder.device)
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
