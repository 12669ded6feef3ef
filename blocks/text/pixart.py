"""Prompts for PixArt: through T5 alone, which does not read the padding."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from ...components.conditioning import PixArtConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from ..prompts.rules import Rules, rules_of
from .prompts import Prompt
from .t5 import Length, MaskedT5Tower, T5Reading, read_masked_by_t5
from .weighted import Texts, over_steps


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[PixArtConditioning, Measured(token_width=["text_encoder.d_model"])]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row: tokens of T5, and a mask of those that are no padding.

    Texts are read in lower case, as in training. max_sequence_length: tokens that T5 reads; the words after them are
    dropped, with a note. prompts: the rules of the syntax (`sf.prompts`), or their name; "plain" reads words alone.

    Raises:
        UnfitValue: no text.
    """

    text_encoder: MaskedT5Tower = component()
    tokenizer: TextTokenizer = component()
    max_sequence_length: Length = knob(300)
    prompts: Rules = knob("plain")

    def __call__(self, prompt: Prompt, running: Running = ALONE) -> Encoded:
        rules = rules_of(self.prompts)
        reading = T5Reading(self.text_encoder, self.tokenizer, self.max_sequence_length, rules, lower_case=True)

        def encode(texts: Sequence[Texts], least: int) -> PixArtConditioning:
            return PixArtConditioning(*read_masked_by_t5(reading, texts[0] or [""], running))

        return Encoded(over_steps(rules, (prompt,), running, encode))
