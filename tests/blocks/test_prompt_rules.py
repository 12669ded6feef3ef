"""The syntax of prompts: which words have which weight, and which text belongs to which step."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato import UnfitValue
from sfumato.blocks.prompts.a1111 import A1111
from sfumato.blocks.prompts.comfy import Comfy
from sfumato.blocks.prompts.loras import loras_in, without_loras
from sfumato.blocks.prompts.plain import Plain
from sfumato.blocks.prompts.rules import LoraTag, Part, Piece, PromptRules
from sfumato.blocks.prompts.schedules import parse, played
from sfumato.components.conditioning import StepPlan
from sfumato.graph.errors import ConfigError
from sfumato.graph.validate import Unfit

SYNTAX = st.text(alphabet="ab ,:|.15()[]\\<>", max_size=40) | st.lists(
    st.sampled_from(["a", " ", "BREAK", "(", ")", "[", "]", ":1.5)", ":0.5]", "|", "\\", "\\(", ":", "AK", "BRE"])
).map("".join)


def weights(rules: PromptRules, text: str) -> list[list[tuple[str, Any]]]:  # Any: about equal to a float
    return [[(piece.text, pytest.approx(piece.weight)) for piece in part] for part in rules.parts(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a fox", [("a fox", 1)]),
        ("a (red) fox", [("a ", 1), ("red", 1.1), (" fox", 1)]),
        ("((red)) [fox]", [("red", 1.21), (" ", 1), ("fox", 1 / 1.1)]),
        ("(a (red:1.5) fox:2)", [("a ", 2), ("red", 3), (" fox", 2)]),
        ("(red", [("red", 1.1)]),
        ("red) fox] :2)", [("red) fox] :2)", 1)]),
        (r"\(red\) \[x\] a\\b \c", [(r"(red) [x] a\b \c", 1)]),
        ("(a [b) c] d", [("a ", 1.1), ("b", 1), (" c", 1 / 1.1), (" d", 1)]),
        ("a: (b:c:1.5)", [("a: ", 1), ("b:c", 1.5)]),
        ("(red:-0.5)", [("red", -0.5)]),
        ("(red:)", [("red:", 1.1)]),
        ("()", []),
        ("", []),
    ],
)
def test_a1111_weighs(text: str, pieces: list[tuple[str, float]]) -> None:
    assert weights(A1111(), text) == [pieces]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a fox", [("a fox", 1)]),
        ("((red)) [fox]", [("red", 1.21), (" [fox]", 1)]),
        ("(a (red:1.5) fox:2)", [("a ", 2), ("red", 1.5), (" fox", 2)]),  # a number replaces, and does not multiply
        ("(a (red) fox:2)", [("a ", 2), ("red", 2.2), (" fox", 2)]),
        ("(red", [("(red", 1)]),
        ("red) (fox)", [("red) ", 1), ("fox", 1.1)]),
        (r"\(red\) a\\b", [(r"(red) a\\b", 1)]),
        ("(a: b)", [("a: b", 1.1)]),
        ("(:1.5)", [(":1.5", 1.1)]),
        ("a BREAK b", [("a BREAK b", 1)]),
    ],
)
def test_comfy_weighs(text: str, pieces: list[tuple[str, float]]) -> None:
    assert weights(Comfy(), text) == [pieces]


def test_break_divides_a_text_into_parts() -> None:
    parts = weights(A1111(), "(a BREAK b) BREAKS BREAK")
    assert parts == [[("a", 1.1)], [("b", 1.1), (" BREAKS", 1)], []]


@given(SYNTAX)
def test_what_a1111_read_is_written_and_read_again(text: str) -> None:
    parts = A1111().parts(text)
    assert A1111().parts(A1111().written(parts)) == parts


@given(SYNTAX)
def test_what_comfy_read_is_written_and_read_again(text: str) -> None:
    parts = Comfy().parts(text)
    assert Comfy().parts(Comfy().written(parts)) == parts


@given(st.text(st.characters(exclude_characters="()[]\\")))
def test_a_text_without_syntax_is_one_piece(text: str) -> None:
    whole: list[Part] = [(Piece(text),) if text else ()]
    assert list(Comfy().parts(text)) == whole
    if "BREAK" not in text:
        assert list(A1111().parts(text)) == whole
    assert "".join(piece.text for part in Plain().parts(text) for piece in part) == text


@pytest.mark.parametrize("rules", [A1111(), Comfy()])
@pytest.mark.parametrize(
    "text", ["(" * 10_000 + "x" + ")" * 10_000, "(" * 10_000, "[" * 10_000 + "x" + "]" * 10_000, "(a[b" * 5_000]
)
def test_deep_brackets_are_read_or_refused(rules: PromptRules, text: str) -> None:
    if "(" * 10_000 + "x" in text:
        with pytest.raises(UnfitValue, match="Use fewer brackets, or smaller numbers"):  # 1.1 ** 10000 is infinite
            rules.parts(text)
    else:
        assert rules.parts(text)
    assert rules.over_steps(text) == (text,)


def texts(text: str, count: int) -> list[str]:
    combinations, plan = played([parse(text)])
    return [combinations[plan.at(number, count)][0] for number in range(count)]


@pytest.mark.parametrize(
    ("text", "over_steps"),
    [
        ("a fox", ["a fox"] * 4),
        ("a [red:blue:0.5] fox", ["a red fox"] * 2 + ["a blue fox"] * 2),
        ("a [red:blue:1]", ["a red"] + ["a blue"] * 3),
        ("a [red:0.5]", ["a "] * 2 + ["a red"] * 2),
        ("a [red::2]", ["a red"] * 2 + ["a "] * 2),
        ("[a|b]c", ["ac", "bc", "ac", "bc"]),
        ("[a||b]c", ["ac", "c", "bc", "ac"]),
        ("[a:[b:c:3]:1]", ["a", "b", "b", "c"]),
        ("[a|b][c:d:.5]", ["ac", "bc", "ad", "bd"]),
        ("[(a:2): b :0.75]", ["(a:2)"] * 3 + [" b "]),
        ("[a:b:0]", ["b"] * 4),
        ("[a:b:1.0]", ["a"] * 4),
        ("[a:b:-1]", ["b"] * 4),
        *[(text, [text] * 4) for text in ("[a]", "[a", "a]", "[a:b]", "[a:b:c:1]", "[a:b|c:1]", "(a|b)", r"[a\:b:1\]")],
        *[(text, [text] * 4) for text in ("[(a:b:1]", "[a):b:1]", "[a:b:c]", "[a:b:1e2]")],
    ],
)
def test_a_text_over_four_steps(text: str, over_steps: list[str]) -> None:
    assert texts(text, 4) == over_steps


def test_texts_that_change_together_have_one_plan() -> None:
    combinations, plan = played([parse("[a:b:0.5]"), parse("[c|d]")])
    assert [combinations[plan.at(number, 4)] for number in range(4)] == [
        ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")
    ]  # fmt: skip


def test_more_combinations_than_the_limit_are_refused() -> None:
    primes = [2, 3, 5, 7, 11]
    text = "".join(f"[{'|' * (prime - 1)}]" for prime in primes)
    with pytest.raises(UnfitValue, match=r"has 2,310 combinations of texts over the steps, and the limit is 256"):
        played([parse(text)])


def test_nested_switches_are_played_however_deep() -> None:
    assert texts("[a:" * 2_000 + "b" + ":0.5]" * 2_000, 2) == ["a", "b"]


def test_a_plan_whose_table_does_not_fit_is_refused() -> None:
    with pytest.raises(UnfitValue, match=r"Got 1\."):
        StepPlan(fractions=(0.5,))


@pytest.mark.parametrize(
    ("tag", "read"),
    [
        ("<lora:style>", LoraTag("style")),
        ("<lora:style:0.8>", LoraTag("style", 0.8, 0.8)),
        ("<lyco:style:.8:-0.5>", LoraTag("style", 0.8, -0.5)),
        ("<lora:a/b c:te=0.5>", LoraTag("a/b c", 0.5, 0.5)),
        ("<lora:style:1:unet=0.5>", LoraTag("style", 1.0, 0.5)),
    ],
)
def test_a_lora_in_a_text(tag: str, read: LoraTag) -> None:
    assert loras_in(f"a {tag} fox") == [read]
    assert without_loras(f"a {tag} fox") == "a  fox"


@pytest.mark.parametrize("tag", ["<lora:>", "<lora:a:b>", "<lora:a:1:2:3>", "<lora:a:inf>", "<lora:a:dim=8>"])
def test_a_lora_that_cannot_be_read_is_refused(tag: str) -> None:
    with pytest.raises(UnfitValue, match="is no LoRA with strengths"):
        loras_in(tag)


def test_and_is_refused() -> None:
    with pytest.raises(UnfitValue, match="AND, which joins several prompts"):
        A1111().over_steps("a fox AND a hare")


@pytest.mark.parametrize("text", ["a (red:1.5) fox", "((red))", "[a:b:0.5]", "[a|b]", "a BREAK b", "<lora:x:1>"])
def test_plain_rules_say_what_they_do_not_read(text: str) -> None:
    assert Plain().unread(text)


@pytest.mark.parametrize("text", ["a fox", "a (red) fox", "[1]", "time 10:30 (noon)", "a (portrait: two)"])
def test_words_are_no_syntax(text: str) -> None:
    assert Plain().unread(text) is None


def test_wrong_settings_of_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"comma_backtrack needs a number of tokens, 0 or more\. Got -1"):
        A1111(comma_backtrack=-1)
    with pytest.raises(Unfit, match="has no loras in files"):
        PromptRules.from_json({"rules": "A1111", "loras": "/"})
    with pytest.raises(Unfit, match="No prompt syntax is called 'A1112'"):
        PromptRules.from_json({"rules": "A1112"})
