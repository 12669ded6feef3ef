"""Prompts as texts, and texts as token ids in windows of the length that a CLIP text encoder reads."""

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge

from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Running
from ...graph.errors import UnfitValue
from ...graph.limits import AboveLimit, check_limit
from ...registry import counted
from ..prompts.rules import PromptRules, Token

Prompt = str | Sequence[str]
"""One text, or a list with one for each prompt."""
LongPrompt = Literal["cut", "chunk"]
"""The treatment of a prompt that is longer than a window: `"cut"` drops the rest and notes the dropped words;
`"chunk"` reads all of it, a window at a time."""
Skip = Annotated[int, Ge(0)] | None
"""The number of last layers that are left out; None for none."""


class Window(NamedTuple):
    """Token ids of the length of a window (begin, text, end, padding), and the weight of each."""

    ids: list[int]
    weights: list[float]


def texts(prompt: Prompt) -> list[str]:
    """The texts of a prompt. Raise UnfitValue for an empty list, and for more or longer texts than the limits."""
    found = [prompt] if isinstance(prompt, str) else list(prompt)
    if not found:
        raise UnfitValue("There is no prompt: the list is empty. Give one text or more; '' is a prompt too.")
    try:
        check_limit("prompts", len(found))
        check_limit("prompt_letters", max(map(len, found)))
    except AboveLimit as error:
        raise UnfitValue(f"The prompt {error}") from None
    return found


def matched(name: str, prompt: Prompt | None, rows: Rows) -> tuple[str, ...]:
    """The texts of a negative prompt: one for all prompts, or one each; None is "". UnfitValue for other numbers."""
    prompt = "" if prompt is None else prompt
    found = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    if len(found) not in (1, rows.prompts):
        raise UnfitValue(
            f"{name} has {counted(len(found), 'text')} for {counted(rows.prompts, 'prompt')}. "
            "Give one for all, or one each."
        )
    return found


def one_or_each(prompts: Sequence[Sequence[object]]) -> int:
    """The number of texts of `prompt`, `prompt_2` …, where each has one for all or one each. UnfitValue for others.

    >>> one_or_each([["a fox", "a hare"], ["in the snow"]])
    2
    """
    counts = [len(prompt) for prompt in prompts]
    total = max(counts)
    if not {*counts} <= {1, total}:
        names = ["prompt", *(f"prompt_{i}" for i in range(2, len(counts) + 1))]
        each = [f"{name} has {counted(count, 'text')}" for name, count in zip(names, counts, strict=True)]
        raise UnfitValue(f"{', '.join(each[:-1])}, and {each[-1]}. Give one for all, or one each.")
    return total


def windows(
    tokenizer: TextTokenizer, prompts: Sequence[str], rules: PromptRules, long_prompt: LongPrompt, running: Running
) -> list[list[Window]]:
    """The windows of each text; one where the rules cut long prompts and `long_prompt` is "cut".

    Raises:
        UnfitValue: more windows than the limit.
    """
    running.check()
    return [_windows(tokenizer, text, rules, long_prompt, running) for text in prompts]


def count_windows(tokenizer: TextTokenizer, text: str, rules: PromptRules) -> int:
    """The number of windows that all of a text fills."""
    return len(_chunks(tokenizer, text, rules))


def empty_window(tokenizer: TextTokenizer) -> Window:
    """The window of an empty text."""
    return _window(tokenizer, [])


def side_by_side(tokenizer: TextTokenizer, rows: Sequence[Sequence[Window]], count: int = 0) -> list[list[Window]]:
    """The first window of each text, the second, and so on, `count` at least; empty ones after the end of a text.

    >>> from types import SimpleNamespace
    >>> letters = SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=0, model_max_length=3)
    >>> a, b, c = (Window([1, letter, 2], [1.0] * 3) for letter in (7, 8, 9))
    >>> [[window.ids for window in part] for part in side_by_side(letters, [[a, b], [c]])]
    [[[1, 7, 2], [1, 9, 2]], [[1, 8, 2], [1, 2, 0]]]
    """
    empty = empty_window(tokenizer)
    count = max(count, *map(len, rows)) if rows else count
    return [[row[i] if i < len(row) else empty for row in rows] for i in range(count)]


def _windows(
    tokenizer: TextTokenizer, text: str, rules: PromptRules, long_prompt: LongPrompt, running: Running
) -> list[Window]:
    room, chunks = tokenizer.model_max_length - 2, _chunks(tokenizer, text, rules)
    if rules.cuts and long_prompt == "cut" and len(chunks) > 1:
        dropped = tokenizer.decode([token.id for chunk in chunks[1:] for token in chunk]).strip()
        running.note(
            f"The prompt is longer than the {room} tokens that the text encoder reads. Dropped: {dropped!r}. "
            'long_prompt="chunk" encodes all of it.'
        )
        chunks = chunks[:1]
    try:
        check_limit("prompt_windows", len(chunks))
    except AboveLimit as error:
        raise UnfitValue(f"The prompt {error}") from None
    return [_window(tokenizer, chunk) for chunk in chunks]


def _chunks(tokenizer: TextTokenizer, text: str, rules: PromptRules) -> list[list[Token]]:
    room = tokenizer.model_max_length - 2
    return rules.chunks(lambda words: tokenizer([words]).input_ids[0][1:-1], text, room)


def _window(t: TextTokenizer, words: Sequence[Token]) -> Window:
    begin = [] if t.bos_token_id is None else [t.bos_token_id]
    end = [] if t.eos_token_id is None else [t.eos_token_id]
    filler = t.pad_token_id if t.pad_token_id is not None else t.eos_token_id
    count = t.model_max_length - len(words) - len(begin) - len(end)
    fill = [] if filler is None else [filler] * count
    ids = [*begin, *(token.id for token in words), *end, *fill]
    weights = [1.0] * len(begin) + [token.weight for token in words]
    return Window(ids, weights + [1.0] * (len(ids) - len(weights)))
