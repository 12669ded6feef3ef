"""Prompts to conditioning, with a tower and a tokenizer of five lines."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sfumato.blocks.text.rows import ExpandRows, MatchNegative
from sfumato.blocks.text.sd import EncodePrompt
from sfumato.components.types import Conditioning, Rows


class Ids(NamedTuple):
    input_ids: list[list[int]]


class Letters:
    """A token for each letter; 1 begins, 2 ends, 0 fills."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 6, 1, 2, 0

    def __call__(self, text: list[str]) -> Ids:
        return Ids([[1, *map(ord, t), 2] for t in text])

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


class Said(NamedTuple):
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None


class Tower:
    """Says the ids themselves; a layer before the last says less by 100, 200 …"""

    device = torch.device("cpu")
    calls = 0

    def forward(self, input_ids: Tensor, *, output_hidden_states: bool = False) -> Said:
        self.calls += 1
        last = input_ids[..., None].float()
        return Said(last, (last - 200, last - 100, last) if output_hidden_states else None)

    def final_layer_norm(self, state: Tensor) -> Tensor:
        return state * 2


def encode(prompt: str | list[str], clip_skip: int | None = None, chunk: bool = False) -> list[list[float]]:
    block = EncodePrompt(
        text_encoder=Tower(), tokenizer=Letters(), clip_skip=clip_skip, long_prompt="chunk" if chunk else "cut"
    )
    return block(prompt).conditioning.tokens[..., 0].tolist()


A, B, C, D, E = map(ord, "ABCDE")


def test_a_prompt_is_one_row_filled_to_the_window() -> None:
    assert encode("AB") == [[1, A, B, 2, 0, 0]]


def test_several_prompts_are_a_row_each_in_one_forward() -> None:
    tower = Tower()
    rows = EncodePrompt(text_encoder=tower, tokenizer=Letters())(["A", "BC"]).conditioning
    assert rows.tokens[..., 0].tolist() == [[1, A, 2, 0, 0, 0], [1, B, C, 2, 0, 0]]
    assert (rows.rows, tower.calls) == (2, 1)


def test_an_empty_prompt_is_a_window_of_nothing() -> None:
    assert encode("") == [[1, 2, 0, 0, 0, 0]]


def test_a_long_prompt_is_cut_and_the_rest_is_named() -> None:
    with pytest.warns(UserWarning, match=r"longer than the 4 tokens .* Dropped: 'E'"):
        assert encode("ABCDE") == [[1, A, B, C, D, 2]]


def test_chunks_lie_side_by_side_and_shorter_prompts_are_filled_with_empty_windows() -> None:
    assert encode(["ABCDE", "A"], chunk=True) == [
        [1, A, B, C, D, 2, 1, E, 2, 0, 0, 0],
        [1, A, 2, 0, 0, 0, 1, 2, 0, 0, 0, 0],
    ]


def test_skipped_layers_are_normed_at_the_end() -> None:
    assert encode("A", clip_skip=1) == [[2 * (t - 100) for t in (1, A, 2, 0, 0, 0)]]
    assert encode("A", clip_skip=2) == [[2 * (t - 200) for t in (1, A, 2, 0, 0, 0)]]


@pytest.mark.parametrize(
    ("skip", "text"),
    [(3, "clip_skip=3, but this text encoder has 2 layers"), (-1, "greater than or equal to 0.*, got -1")],
)
def test_more_layers_than_there_are_cannot_be_skipped(skip: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encode("A", clip_skip=skip)


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no prompt: the list is empty"):
        encode([])


def test_one_negative_prompt_serves_all_and_other_numbers_are_refused() -> None:
    match = MatchNegative()
    assert match(Rows(3, 2)) == (("",),)
    assert match(Rows(3, 2), "no") == (("no",),)
    assert match(Rows(2, 1), ["a", "b"]) == (("a", "b"),)
    with pytest.raises(ValueError, match="negative_prompt has 2 texts for 3 prompts"):
        match(Rows(3, 1), ["a", "b"])


def test_rows_of_a_prompt_lie_beside_each_other() -> None:
    two, one = (Conditioning(torch.arange(n).float().reshape(n, 1, 1)) for n in (2, 1))
    expand = ExpandRows()
    assert expand(two, Rows(2, 2)).conditioning.tokens.flatten().tolist() == [0, 0, 1, 1]
    assert expand(one, Rows(2, 2)).conditioning.tokens.flatten().tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="conditioning has 2 rows for 3 prompts"):
        expand(two, Rows(3, 1))
