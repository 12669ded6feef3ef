"""The syntax of prompts, applied for encoders: texts that change over the steps, and weights of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ...components.conditioning import Conditioning, OverSteps
from ...components.loading.tokenizer import TextTokenizer
from ...graph import Running
from ..prompts.rules import PromptRules
from ..prompts.schedules import played
from .prompts import Prompt, count_windows, one_or_each, texts

C = TypeVar("C", bound=Conditioning)
Texts = list[str] | None
"""The texts of one of several encoders; None is no prompt."""


def over_steps(
    rules: PromptRules,
    prompts: Sequence[Prompt | None],
    running: Running,
    encode: Callable[[Sequence[Texts], int], C],
    tokenizers: Sequence[TextTokenizer] = (),
) -> C:
    """Encode prompts, which may change over the steps.

    Args:
        rules: of the syntax.
        prompts: one for each text encoder. A row has one text of each.
        running: takes a note of syntax that is read as words.
        encode: encodes texts that do not change, into so many windows at least.
        tokenizers: of the text encoders that read windows, which are the first.

    Raises:
        UnfitValue: different numbers of texts, or syntax that is not supported.
    """
    read = [None if prompt is None else texts(prompt) for prompt in prompts]
    for text in dict.fromkeys(text for one in read for text in one or ()):
        if (found := rules.unread(text)) is not None:
            running.note(
                f"The prompt has {found!r}, which is read as words. "
                'prompts="a1111" or prompts="comfy" reads the syntax of those programs.'
            )
    rows = [None if one is None else [rules.over_steps(text) for text in one] for one in read]
    passed = [one for one in rows if one is not None]
    if all(isinstance(item, str) for one in passed for items in one for item in items):
        return encode([None if one is None else ["".join(items) for items in one] for one in rows], 1)
    total = one_or_each(passed)
    plays = [played([one[row % len(one)] for one in passed]) for row in range(total)]
    rounds: list[list[Texts]] = []
    for number in range(max(len(combinations) for combinations, _ in plays)):
        chosen = [combinations[min(number, len(combinations) - 1)] for combinations, _ in plays]
        of_encoders = iter([list(column) for column in zip(*chosen, strict=True)])
        rounds.append([None if one is None else next(of_encoders) for one in rows])
    least = max(
        [1, *(count_windows(t, text, rules) for one in rounds for t, column in zip(tokenizers, one, strict=False)
              for text in column or ())]
    )  # fmt: skip
    choices = tuple(encode(one, least) for one in rounds)
    return replace(choices[0], over_steps=OverSteps(choices, tuple(plan for _, plan in plays)))


def weighted(
    rules: PromptRules, hidden: Tensor, weights: Sequence[Sequence[float]], empty: Callable[[], Tensor]
) -> Tensor:
    """The encoded tokens (rows, tokens, width) with their weights (texts, tokens); without weights, as they are.

    empty: encodes the empty prompt, (1 or rows, tokens, width).
    """
    if all(weight == 1 for row in weights for weight in row):
        return hidden
    return rules.weighted(hidden, torch.tensor(weights, device=hidden.device), empty)
