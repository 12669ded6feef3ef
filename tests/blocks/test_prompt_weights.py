"""What weights do to encoded tokens, checked with formulas written by hand; and windows, breaks and steps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sfumato import UnfitValue
from sfumato.blocks.prompts.a1111 import A1111
from sfumato.blocks.prompts.comfy import Comfy
from sfumato.blocks.prompts.plain import Plain
from sfumato.blocks.prompts.rules import PromptRules, Token
from sfumato.blocks.text import flux, pixart, sd, sd3, sdxl
from sfumato.blocks.text.micro_conditioning import AddSizes
from sfumato.components.conditioning import Conditioning, OverSteps, SDConditioning, StepPlan
from sfumato.components.schedulers.schedule import Schedule
from sfumato.components.types import Pass

WIDTH = 3
STEPS = Schedule(sigmas=(4.0, 3.0, 2.0, 1.0, 0.0), timesteps=(4, 3, 2, 1))


class Letters:
    """A token for each letter; 1 begins, 2 ends, 0 fills. A window has room for 6 letters."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 8, 1, 2, 0

    def __call__(self, text: list[str]) -> Any:
        return SimpleNamespace(input_ids=[[1, *map(ord, t.replace(" ", "")), 2] for t in text])

    def decode(self, token_ids: list[int]) -> str:
        return "".join(map(chr, token_ids))


class T5Letters(Letters):
    """The same without a begin token, as T5 has it."""

    bos_token_id = None

    def __call__(self, text: list[str]) -> Any:
        return SimpleNamespace(input_ids=[[*map(ord, t.replace(" ", "")), 2] for t in text])


class Tower:
    """In float64, each token depends on all tokens of its row."""

    device = torch.device("cpu")
    config: Any = SimpleNamespace(hidden_size=WIDTH, projection_dim=2)

    def __init__(self, seed: int = 0) -> None:
        self.table = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, output_hidden_states: bool = False
    ) -> Any:
        tokens = self.table[input_ids % 200]
        places = torch.arange(1.0, tokens.shape[1] + 1, dtype=torch.float64)[:, None]
        states = tokens + tokens.mean(1, keepdim=True) + 0.01 * places
        pooled = states.mean(1)
        return SimpleNamespace(
            last_hidden_state=states, hidden_states=(tokens, states, states * 2), text_embeds=pooled[:, :2],
            pooler_output=pooled,
        )  # fmt: skip


def encode(prompt: str | list[str], prompts: Any = "plain", **more: Any) -> SDConditioning:
    made = sd.EncodePrompt(text_encoder=Tower(), tokenizer=Letters(), prompts=prompts, **more)
    return made(prompt).conditioning


def hidden(ids: list[int]) -> Tensor:
    return Tower().forward(torch.tensor([ids])).last_hidden_state


A, B, C, D, E = map(ord, "abcde")
COMMA = ord(",")


def test_a1111_multiplies_and_keeps_the_mean() -> None:
    z = hidden([1, A, B, 2, 0, 0, 0, 0])
    made = z * torch.tensor([1, 1, 1.5, 1, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    assert torch.allclose(encode("a (b:1.5)", "a1111").tokens, made * (z.mean() / made.mean()), atol=1e-14)


def test_comfy_goes_away_from_the_empty_prompt() -> None:
    z, empty = hidden([1, A, B, 2, 0, 0, 0, 0]), hidden([1, 2, 0, 0, 0, 0, 0, 0])
    made = z.clone()
    made[:, 2] = (z[:, 2] - empty[:, 2]) * 1.5 + empty[:, 2]
    found = encode("a (b:1.5)", "comfy").tokens
    assert torch.allclose(found, made, atol=1e-14)
    assert torch.equal(found[:, [0, 1, 3]], z[:, [0, 1, 3]])


def test_each_row_is_that_of_its_prompt_alone() -> None:
    prompts = ["a (b:1.5)", "c", "(d:0.2)(e:3)"]
    for rules in ("a1111", "comfy"):
        rows = encode(prompts, rules).tokens
        for row, prompt in zip(rows, prompts, strict=True):
            assert torch.equal(row, encode(prompt, rules).tokens[0])


def _times_ten(states: Tensor) -> Tensor:
    return states * 10


def test_weights_come_after_the_last_norm_of_skipped_layers() -> None:
    norm = SimpleNamespace(final_layer_norm=_times_ten)
    tower: Any = Tower()
    tower.text_model = norm
    block = sd.EncodePrompt(text_encoder=tower, tokenizer=Letters(), prompts="a1111", clip_skip=1)
    z = hidden([1, A, 2, 0, 0, 0, 0, 0]) * 10
    made = z * torch.tensor([1, 2.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64)[:, None]
    assert torch.allclose(block("(a:2)").conditioning.tokens, made * (z.mean() / made.mean()))


@given(st.text("ab ,:.|", max_size=20), st.sampled_from(["a1111", "comfy"]))
def test_a_text_without_syntax_is_encoded_bit_for_bit_as_by_plain_rules(text: str, rules: Any) -> None:
    plain = encode(text, long_prompt="chunk").tokens
    if rules == "a1111":
        rules = A1111(comma_backtrack=0)
    found = encode(text, rules).tokens
    if len(text.replace(" ", "")) <= 6 or rules != "comfy":
        assert torch.equal(found, plain)


def ids(rules: PromptRules, text: str, room: int = 6) -> list[str]:
    def read(words: str) -> list[int]:
        return Letters()([words]).input_ids[0][1:-1]

    return ["".join(chr(token.id) for token in window) for window in rules.chunks(read, text, room)]


def test_a_full_window_goes_back_to_its_last_comma() -> None:
    assert ids(A1111(), "ab,cdefg") == ["ab,", "cdefg"]
    assert ids(A1111(comma_backtrack=2), "ab,cdefg") == ["ab,cde", "fg"]
    assert ids(A1111(comma_backtrack=0), "ab,cdefg") == ["ab,cde", "fg"]
    assert ids(A1111(), "abcdef,g") == ["abcdef", ",g"]
    assert ids(A1111(), "abcdef") == ["abcdef"]


def test_break_begins_a_window() -> None:
    assert ids(A1111(), "a BREAK b") == ["a", "b"]
    assert ids(A1111(), "BREAK a") == ["", "a"]
    assert ids(A1111(), "a BREAK") == ["a"]
    assert ids(A1111(), "") == [""]
    found = encode("a BREAK b", "a1111").tokens
    windows = [hidden([1, letter, 2, 0, 0, 0, 0, 0]) for letter in (A, B)]
    assert torch.equal(found, torch.cat(windows, 1))


def test_comfy_divides_only_long_words_between_windows() -> None:
    assert ids(Comfy(), "abcd efg") == ["abcd", "efg"]
    assert ids(Comfy(), "ab abcdefgh a") == ["ababcd", "efgha"]
    assert ids(Comfy(), "abcdefg", 4) == ["abcd", "efg"]  # shorter than eight, and longer than a window


def test_too_many_windows_are_refused() -> None:
    with pytest.raises(UnfitValue, match="The prompt has 601 windows, and the limit is 512"):
        encode("a" + " BREAK a" * 600, "a1111")


def test_plain_rules_note_what_they_do_not_read_and_read_it_as_words() -> None:
    with pytest.warns(UserWarning, match=r"The prompt has '\[a\|b\]', which is read as words\. prompts=\"a1111\""):
        found = encode("[a|b]").tokens
    assert torch.equal(found, hidden([1, *map(ord, "[a|b]"), 2, 0]))


def test_comfy_notes_what_it_does_not_read() -> None:
    with pytest.warns(UserWarning, match="which is read as words"):
        encode("[a|b]", "comfy")


def test_sdxl_weighs_both_encoders_and_pools_without_weights() -> None:
    first, second = Tower(1), Tower(2)
    block = sdxl.EncodePrompt(
        text_encoder=first, text_encoder_2=second, tokenizer=Letters(), tokenizer_2=Letters(), prompts="comfy"
    )
    text = block("a(b:2)", prompt_2="(c:3)").text
    for tower, row, part in ((first, [1, A, B, 2, 0, 0, 0, 0], 0), (second, [1, C, 2, 0, 0, 0, 0, 0], 1)):
        z, e = (tower.forward(torch.tensor([r])).last_hidden_state for r in (row, [1, 2, 0, 0, 0, 0, 0, 0]))
        place, weight = (2, 2.0) if part == 0 else (1, 3.0)
        z[:, place] = (z[:, place] - e[:, place]) * weight + e[:, place]
        assert torch.allclose(text.tokens[..., part * WIDTH : (part + 1) * WIDTH], z)
    assert torch.equal(text.pooled, second.forward(torch.tensor([[1, C, 2, 0, 0, 0, 0, 0]])).text_embeds)


def test_sdxl_without_a_prompt_is_zeros_with_any_rules() -> None:
    block = sdxl.EncodePrompt(
        text_encoder=Tower(), text_encoder_2=Tower(), tokenizer=Letters(), tokenizer_2=Letters(), prompts="a1111"
    )
    assert not block(None).text.tokens.any()


def test_t5_is_weighed_and_pooled_clip_is_not() -> None:
    block = flux.EncodePrompt(
        text_encoder=Tower(1), tokenizer=Letters(), text_encoder_2=Tower(2), tokenizer_2=T5Letters(),
        max_sequence_length=5, prompts="comfy",
    )  # fmt: skip
    made = block("a(b:2)").conditioning
    z, e = (Tower(2).forward(torch.tensor([r])).last_hidden_state for r in ([A, B, 2, 0, 0], [2, 0, 0, 0, 0]))
    z[:, 1] = (z[:, 1] - e[:, 1]) * 2 + e[:, 1]
    assert torch.allclose(made.tokens, z)
    assert torch.equal(made.pooled, Tower(1).forward(torch.tensor([[1, A, B, 2, 0, 0, 0, 0]])).pooler_output)


def test_pixart_weighs_words_in_lower_case() -> None:
    block = pixart.EncodePrompt(text_encoder=Tower(), tokenizer=T5Letters(), max_sequence_length=5, prompts="a1111")
    z = hidden([A, B, 2, 0, 0])
    made = z * torch.tensor([1, 1.1, 1, 1, 1], dtype=torch.float64)[:, None]
    found = block(" A BREAK (B) ").conditioning
    assert torch.allclose(found.tokens, made * (z.mean() / made.mean()))
    assert found.mask.tolist() == [[1, 1, 1, 0, 0]]


def test_sd3_weighs_all_three_encoders() -> None:
    block = sd3.EncodePrompt(
        text_encoder=Tower(1), tokenizer=Letters(), text_encoder_2=Tower(2), tokenizer_2=Letters(),
        text_encoder_3=_Wide(), tokenizer_3=T5Letters(), max_sequence_length=4, prompts="comfy",
    )  # fmt: skip
    plain, weighed = block("ab").conditioning, block("a(b:2)").conditioning
    different = (plain.tokens != weighed.tokens).any(-1)[0].nonzero().flatten().tolist()
    assert different == [2, 8 + 1]  # the place of b in the window of CLIP, and in T5's tokens behind it
    assert torch.equal(plain.pooled, weighed.pooled)


class _Wide(Tower):
    """T5, whose tokens are wider than those of both CLIPs together."""

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, output_hidden_states: bool = False
    ) -> Any:
        return SimpleNamespace(last_hidden_state=super().forward(input_ids).last_hidden_state.repeat(1, 1, 3))


# ------------------------------------------------------------------------------------------------- over the steps
def step_tokens(made: Conditioning) -> list[Tensor]:
    return [made.at(step).tokens for step in STEPS]


def test_a_switch_is_the_conditioning_of_each_text_in_its_steps() -> None:
    before, after = encode("a c").tokens, encode("b c").tokens
    for found, needed in zip(step_tokens(encode("[a:b:0.5] c", "a1111")), [before] * 2 + [after] * 2, strict=True):
        assert torch.equal(found, needed)


def test_rows_change_at_their_own_steps() -> None:
    prompts = ["[a:b:0.5]", "c", "[a|b]"]
    together = encode(prompts, "a1111")
    for row, prompt in enumerate(prompts):
        alone = encode(prompt, "a1111")
        for found, needed in zip(step_tokens(together), step_tokens(alone), strict=True):
            assert torch.equal(found[row], needed[0])


def test_texts_of_different_length_fill_equally_many_windows() -> None:
    found = step_tokens(encode("[a:abcdefgh:0.5]", "a1111"))
    assert [tokens.shape[1] for tokens in found] == [16] * 4


def test_whole_steps_count_and_not_the_calls_of_a_solver() -> None:
    heun = Schedule(sigmas=(4.0, 3.0, 3.0, 2.0, 0.0), timesteps=(4, 3, 3, 2), places=(0, 0, 1, 1))
    made = encode("[a:b:1]", "a1111")
    chosen = [torch.equal(made.at(step).tokens, encode("b").tokens) for step in heun]
    assert chosen == [False, False, True, True]
    assert [torch.equal(made.at(step).tokens, encode("b").tokens) for step in STEPS[2:]] == [True, True]


def test_a_pass_has_the_conditioning_of_its_step() -> None:
    made = encode("[a:b:0.5]", "a1111")
    p = Pass(torch.zeros(1, 1, 1, 1), STEPS[3], made)
    assert p.conditioning.over_steps is None
    assert torch.equal(p.conditioning.tokens, encode("b").tokens)


def test_the_encoders_of_sdxl_change_together() -> None:
    block = sdxl.EncodePrompt(
        text_encoder=Tower(1), text_encoder_2=Tower(2), tokenizer=Letters(), tokenizer_2=Letters(), prompts="a1111"
    )
    made = AddSizes()(block("[a:b:0.5]", prompt_2="[c|d]").text, ((1.0,) * 6,)).conditioning
    for step, (first, second) in zip(STEPS, [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")], strict=True):
        alone = AddSizes()(block(first, prompt_2=second).text, ((1.0,) * 6,)).conditioning
        now = made.at(step)
        assert torch.equal(now.tokens, alone.tokens) and torch.equal(now.pooled, alone.pooled)
        assert torch.equal(now.time_ids, alone.time_ids)


def changing(rows: int, first: float) -> SDConditioning:
    """Rows that change after 1, 2 … steps from `first` to `first` + 10."""
    numbers = torch.arange(first, first + rows).reshape(-1, 1, 1)
    choices = SDConditioning(numbers), SDConditioning(numbers + 10)
    plans = tuple(StepPlan(numbers=(row + 1,), table=(0, 1)) for row in range(rows))
    return SDConditioning(numbers, over_steps=OverSteps(choices, plans))


def values(made: Conditioning) -> list[list[float]]:
    return [made.at(step).tokens.flatten().tolist() for step in STEPS[:3]]


def test_rows_keep_their_plans_where_they_are_cut_repeated_and_joined() -> None:
    made = changing(2, 0)
    assert values(made) == [[0, 1], [10, 1], [10, 11]]
    assert values(made[1:]) == [[1], [1], [11]]
    assert values(made.expand(2, 2)) == [[0, 0, 1, 1], [10, 10, 1, 1], [10, 10, 11, 11]]
    assert values(changing(1, 0).expand(2, 1)) == [[0, 0], [10, 10], [10, 10]]
    assert values(made.to(torch.device("cpu"))) == values(made)
    joined = SDConditioning.cat([made, changing(1, 5), SDConditioning(torch.full((1, 1, 1), 7.0))])
    assert values(joined) == [[0, 1, 5, 7], [10, 1, 15, 7], [10, 11, 15, 7]]


def test_a_change_of_the_number_of_rows_is_refused_where_rows_change_differently() -> None:
    with pytest.raises(UnfitValue, match="A block makes 1 row of 2 rows of conditioning"):
        changing(2, 0).map(lambda one: SDConditioning(one.tokens.sum(0, keepdim=True)))


def test_plain_rules_do_not_change_tokens() -> None:
    one = torch.ones(1, 1, 1)
    assert torch.equal(Plain().weighted(one, torch.zeros(1, 1), lambda: one), one)
    assert Plain().tokens(lambda text: [ord(letter) for letter in text], "ab") == [Token(A), Token(B)]
