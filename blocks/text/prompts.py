"""Prompts as texts, and texts as token ids in windows of the length that a CLIP text encoder reads."""

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge

from ...components.loading.tokenizer import TextTokenizer
from ...components.types import Rows
from ...graph import Running
from ...graph.errors import UnfitValue
from ...graph.limits import AboveLimit, check_limit
from ...registry import counted

Prompt = str | Sequence[str]
"""One text, or a list with one for each prompt."""
LongPrompt = Literal["cut", "chunk"]
"""What happens to a prompt that is longer than a window: `"cut"` drops the rest, with a note of the dropped words;
`"chunk"` reads all of it, a window at a time."""
Skip = Annotated[int, Ge(0)] | None
"""How many of the last layers are left out; None is none."""
Window = list[int]
"""Token ids of the length of a window: begin, text, end, padding."""


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
    tokenizer: TextTokenizer, prompts: Sequence[str], long_prompt: LongPrompt, running: Running
) -> list[list[Window]]:
    """The windows of each text; one where `long_prompt` is "cut"."""
    running.check()
    return [_windows(tokenizer, text, long_prompt, running) for text in prompts]


def side_by_side(tokenizer: TextTokenizer, rows: Sequence[Sequence[Window]], count: int = 0) -> list[list[Window]]:
    """The first window of each text, the second, and so on, `count` at least; empty ones after the end of a text.

    >>> from types import SimpleNamespace
    >>> letters = SimpleNamespace(bos_token_id=1, eos_token_id=2, pad_token_id=0, model_max_length=3)
    >>> side_by_side(letters, [[[1, 7, 2], [1, 8, 2]], [[1, 9, 2]]])
    [[[1, 7, 2], [1, 9, 2]], [[1, 8, 2], [1, 2, 0]]]
    """
    empty = _window(tokenizer, [])
    count = max(count, *map(len, rows)) if rows else count
    return [[row[i] if i < len(row) else empty for row in rows] for i in range(count)]


def _windows(tokenizer: TextTokenizer, text: str, long_prompt: LongPrompt, running: Running) -> list[Window]:
    words = tokenizer([text]).input_ids[0][1:-1]
    room = tokenizer.model_max_length - 2
    if len(words) > room and long_prompt == "cut":
        dropped = tokenizer.decode(words[room:]).strip()
        running.note(
            f"The prompt is longer than the {room} tokens that the text encoder reads. Dropped: {dropped!r}. "
            'long_prompt="chunk" encodes all of it.'
        )
        words = words[:room]
    return [_window(tokenizer, words[i : i + room]) for i in range(0, max(len(words), 1), room)]


def _window(t: TextTokenizer, words: Sequence[int]) -> Window:
    row = [t.bos_token_id, *words, t.eos_token_id]
    filler = t.pad_token_id if t.pad_token_id is not None else t.eos_token_id
    return [i for i in (*row, *[filler] * (t.model_max_length - len(row))) if i is not None]
