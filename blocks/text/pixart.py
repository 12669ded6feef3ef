"""Prompts for PixArt: through T5 alone, which does not read the padding."""

from typing import Annotated, NamedTuple

from ...components.conditioning import PixArtConditioning
from ...components.loading.tokenizer import TextTokenizer
from ...graph import Block, Running, component, knob
from ...graph.layout import Measured
from ...graph.ports import ALONE
from .prompts import Prompt, texts
from .t5 import Length, MaskedT5Tower, read_masked_by_t5


class Encoded(NamedTuple):
    """Conditioning, a row for each text."""

    conditioning: Annotated[PixArtConditioning, Measured(token_width=["text_encoder.d_model"])]


class EncodePrompt(Block):
    """Turn each text of a prompt into one row: tokens of T5, and a mask of those that are no padding.

    Texts are read in lower case, as in training. max_sequence_length: tokens that T5 reads; the words after them are
    dropped, with a note.

    Raises:
        UnfitValue: no text.
    """

    text_encoder: MaskedT5Tower = component()
    tokenizer: TextTokenizer = component()
    max_sequence_length: Length = knob(300)

    def __call__(self, prompt: Prompt, running: Running = ALONE) -> Encoded:
        plain = [text.lower().strip() for text in texts(prompt)]
        length = self.max_sequence_length
        return Encoded(
            PixArtConditioning(*read_masked_by_t5(self.text_encoder, self.tokenizer, plain, length, running))
        )
