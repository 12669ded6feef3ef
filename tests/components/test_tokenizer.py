"""Ids equal those of transformers' CLIPTokenizer, whatever the text and the layout of the folder."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer as Reference

from sfumato.components.loading.tokenizer import CLIPTokenizer, TextTokenizer
from sfumato.graph.errors import ConfigError, LoadError

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji/tokenizer"

SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|StartOfText|>", "</w>", "<", "|>"]
SPACES = [" ", "\t\n", "\u00a0", "\u2028", "\x00"]
WORDS = ["!", "don't", "'S", "a red apple", "😀", "👩🏽\u200d🚀", "e\u0301", "ﬁ", "İ", "ß", "1234", "٣", "日本"]
pieces = st.sampled_from([*SPECIAL, *SPACES, *WORDS])
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=4)), max_size=8).map("".join))


def a_folder(to: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(EMOJI, to)
    change(to)
    return to


def as_transformers_5_saves(folder: Path) -> None:
    loaded = Reference.from_pretrained(str(EMOJI))
    shutil.rmtree(folder)
    loaded.save_pretrained(str(folder))


def as_hub_repos_list_tokens(folder: Path) -> None:
    """The second tokenizer of SDXL: it pads with "!", a token that also stands in texts."""
    (folder / "special_tokens_map.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    ids = {"0": ("!", False), "2046": ("<|startoftext|>", True), "2047": ("<|endoftext|>", True)}
    common = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    config["added_tokens_decoder"] = {i: {"content": t, "normalized": n, **common} for i, (t, n) in ids.items()}
    config["pad_token"] = "!"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def with_merges_as_text(folder: Path) -> None:
    as_transformers_5_saves(folder)
    whole = json.loads((folder / "tokenizer.json").read_text())
    whole["model"]["merges"] = [" ".join(merge) for merge in whole["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(whole))


def with_typed_tokens(folder: Path) -> None:
    (folder / "special_tokens_map.json").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    token = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": True, "single_word": False}
    config |= {"bos_token": {"content": "<|startoftext|>", **token}, "eos_token": {"content": "<|endoftext|>", **token}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def with_an_added_word(folder: Path) -> None:
    """As textual inversion left it in older folders."""
    (folder / "added_tokens.json").write_text(json.dumps({"<sks>": 2048}))


def as_we_save(folder: Path) -> None:
    CLIPTokenizer.from_pretrained(EMOJI).save_pretrained(folder)


LAYOUTS = [
    as_transformers_5_saves,
    as_hub_repos_list_tokens,
    with_merges_as_text,
    with_typed_tokens,
    with_an_added_word,
    as_we_save,
]


@pytest.fixture(scope="module")
def ours() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMOJI)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return Reference.from_pretrained(str(EMOJI))


@settings(max_examples=300)
@given(texts)
def test_ids_and_decoded_text_are_the_references(ours: CLIPTokenizer, theirs: Any, text: str) -> None:
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=100)
@given(
    st.lists(texts, min_size=1, max_size=4),
    st.integers(2, 40),
    st.booleans(),
    st.sampled_from(["max_length", True, False]),
)
def test_padding_and_truncation_are_the_references(
    ours: CLIPTokenizer, theirs: Any, batch: list[str], length: int, cut: bool, padding: Any
) -> None:
    most = length if cut or padding == "max_length" else None  # else transformers warns that it does not count
    mine = ours(batch, padding=padding, max_length=most, truncation=cut)
    reference = theirs(batch, padding=padding, max_length=most, truncation=cut)
    assert mine.input_ids == reference["input_ids"]
    assert mine.attention_mask == reference["attention_mask"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_folder_gives_the_references_ids(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    folder = a_folder(tmp_path / "tokenizer", layout)
    mine, reference = CLIPTokenizer.from_pretrained(folder), Reference.from_pretrained(str(folder))
    assert (mine.bos_token_id, mine.eos_token_id) == (reference.bos_token_id, reference.eos_token_id)
    assert (mine.pad_token_id, mine.model_max_length) == (reference.pad_token_id, reference.model_max_length)
    assert len(mine) == len(reference)

    @settings(max_examples=100)
    @given(texts)
    def same(text: str) -> None:
        assert mine.encode(text) == reference(text)["input_ids"]

    same()
    for text in ("<|STARTOFTEXT|> x", "<|ENDOFTEXT|> x", "hey! <sks> ! <|endoftext|>  y"):
        assert mine.encode(text) == reference(text)["input_ids"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_saved_reads_back_the_same_here_and_in_transformers(
    tmp_path: Path, layout: Callable[[Path], None]
) -> None:
    before = CLIPTokenizer.from_pretrained(a_folder(tmp_path / "tokenizer", layout))
    before.save_pretrained(tmp_path / "saved")
    after, reference = (
        CLIPTokenizer.from_pretrained(tmp_path / "saved"),
        Reference.from_pretrained(str(tmp_path / "saved")),
    )
    text = "A fox, <|ENDOFTEXT|> <|STARTOFTEXT|> <|endoftext|> <sks> ! in THE snow 😀"
    assert after.encode(text) == before.encode(text) == reference(text)["input_ids"]
    assert after.pad_token_id == before.pad_token_id == reference.pad_token_id
    assert after.model_max_length == before.model_max_length == reference.model_max_length


def test_blocks_may_hold_either_tokenizer(ours: CLIPTokenizer, theirs: Any) -> None:
    def ids(tokenizer: TextTokenizer) -> list[list[int]]:
        return tokenizer(["a fox", "snow"]).input_ids

    assert ids(ours) == ids(theirs)
    assert all(row[0] == ours.bos_token_id and row[-1] == ours.eos_token_id for row in ids(ours))


def test_padding_and_cutting_on_the_left_follow_the_config(tmp_path: Path) -> None:
    def left(folder: Path) -> None:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(
            json.dumps(config | {"padding_side": "left", "truncation_side": "left"})
        )

    folder = a_folder(tmp_path / "tokenizer", left)
    mine, reference = CLIPTokenizer.from_pretrained(folder), Reference.from_pretrained(str(folder))
    batch = ["a cat", "a red apple and a green one and a blue one"]
    want = reference(batch, padding="max_length", max_length=7, truncation=True)["input_ids"]
    assert mine(batch, padding="max_length", max_length=7, truncation=True).input_ids == want
    mine.save_pretrained(tmp_path / "saved")
    assert CLIPTokenizer.from_pretrained(tmp_path / "saved").truncation_side == "left"


def test_threads_with_unlike_settings_do_not_disturb_each_other(ours: CLIPTokenizer) -> None:
    text = "a red apple and a green apple and a blue apple, noto style"

    def call(length: int) -> bool:
        rows = [ours(text, padding="max_length", max_length=length, truncation=True).input_ids for _ in range(100)]
        return all(len(row) == length and row == rows[0] for row in rows)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, [4, 32, 7, 77, 5, 40, 9, 16]))


def test_a_length_with_no_room_for_the_end_tokens_is_refused(ours: CLIPTokenizer) -> None:
    with pytest.raises(ConfigError, match="max_length: needs 2 or more, got 1"):
        ours("x", max_length=1, truncation=True)


def test_a_folder_without_a_vocabulary_says_which_files_are_missing(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "tokenizer", lambda f: (f / "merges.txt").unlink())
    with pytest.raises(LoadError, match=r"no tokenizer\.json, and no merges\.txt"):
        CLIPTokenizer.from_pretrained(folder)


def test_files_that_are_damaged_are_named(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "a", lambda f: (f / "vocab.json").write_text("{"))
    with pytest.raises(LoadError, match=r"vocab\.json: is not JSON at line 1, column 2"):
        CLIPTokenizer.from_pretrained(folder)
    folder = a_folder(tmp_path / "b", lambda f: (f / "merges.txt").write_text("#version: 0.2\na b c\n"))
    with pytest.raises(LoadError, match=r"merges\.txt: merge 1 needs two parts, got 'a b c'"):
        CLIPTokenizer.from_pretrained(folder)
    folder = a_folder(tmp_path / "c", lambda f: (f / "merges.txt").write_text("q zzzz\n"))
    with pytest.raises(LoadError, match="vocabulary and merges do not match"):
        CLIPTokenizer.from_pretrained(folder)
    folder = a_folder(tmp_path / "d", lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}'))
    with pytest.raises(LoadError, match="needs 'BPE', got 'Unigram'"):
        CLIPTokenizer.from_pretrained(folder)
    folder = a_folder(tmp_path / "e", lambda f: (f / "tokenizer.json").write_text('{"model": {"type": "BPE"}}'))
    with pytest.raises(LoadError, match=r"tokenizer\.json: not a tokenizer file"):
        CLIPTokenizer.from_pretrained(folder)
