"""Ids equal those of transformers' T5Tokenizer, whatever the text and the layout of the folder."""

import base64
import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Tokenizer as Reference

from sfumato import ComponentSpec
from sfumato.components.loading import single_file
from sfumato.components.loading.component import load_problems
from sfumato.components.loading.tokenizer_t5 import T5Tokenizer
from sfumato.graph.errors import ConfigError, LoadError

T5 = Path(__file__).parents[1] / "files" / "t5"
SHIPPED = Path(single_file.__file__).parent / "t5_tokenizer"

SPECIAL = ["<pad>", "</s>", "<unk>", "<extra_id_0>", "<extra_id_99>", "<extra_id_100>", "<EXTRA_ID_0>", "<sks>", "▁"]
SPACES = [" ", "  ", "\t\n", "\u00a0", "\u2028", "\u3000", "\u200b", "\x00"]
WORDS = ["a red apple", "don't", "ﬁne", "naïve", "e\u0301", "Ａ１", "…", "“x”", "日本", "😀", "12,345", "photo of a"]
pieces = st.sampled_from([*SPECIAL, *SPACES, *WORDS])
texts = st.one_of(st.text(), st.lists(st.one_of(pieces, st.text(max_size=4)), max_size=8).map("".join))


def only_spiece(folder: Path) -> None:
    """As PixArt's repo: no tokenizer.json, and no word of the sentinels."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))


def as_hub_repos_list_tokens(folder: Path) -> None:
    """As SD3's and Flux's repos: sentinels that swallow the spaces around them."""
    sentinels = [f"<extra_id_{i}>" for i in range(100)]
    flags = {"lstrip": True, "rstrip": True, "normalized": False, "single_word": False, "special": True}
    plain = {**flags, "lstrip": False, "rstrip": False}
    added = {str(499 - i): {"content": text, **flags} for i, text in enumerate(sentinels)}
    added |= {str(i): {"content": text, **plain} for i, text in enumerate(["<pad>", "</s>", "<unk>"])}
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    config = {"additional_special_tokens": sentinels, "added_tokens_decoder": added, "extra_ids": 100, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": 256}))


def fewer_sentinels(folder: Path) -> None:
    only_spiece(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"extra_ids": 3}))


def as_it_is(folder: Path) -> None:
    """As transformers 5 wrote it."""


def as_we_save(folder: Path) -> None:
    T5Tokenizer.from_pretrained(T5).save_pretrained(folder)


LAYOUTS = [as_it_is, as_hub_repos_list_tokens, as_we_save]


def a_folder(to: Path, change: Callable[[Path], object]) -> Path:
    shutil.copytree(T5, to)
    change(to)
    return to


@pytest.fixture(scope="module")
def ours() -> T5Tokenizer:
    return T5Tokenizer.from_pretrained(T5)


@pytest.fixture(scope="module")
def theirs() -> Any:
    return Reference.from_pretrained(str(T5))


@settings(max_examples=300)
@given(texts)
def test_ids_and_decoded_text_are_the_references(ours: T5Tokenizer, theirs: Any, text: str) -> None:
    ids = theirs(text)["input_ids"]
    assert ours.encode(text) == ids
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=100)
@given(
    st.lists(texts, min_size=1, max_size=4),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(["max_length", True, False]),
)
def test_padding_truncation_and_masks_are_the_references(
    ours: T5Tokenizer, theirs: Any, batch: list[str], length: int, cut: bool, padding: Any
) -> None:
    most = length if cut or padding == "max_length" else None  # else transformers warns that it does not count
    mine = ours(batch, padding=padding, max_length=most, truncation=cut)
    reference = theirs(batch, padding=padding, max_length=most, truncation=cut)
    assert mine.input_ids == reference["input_ids"]
    assert mine.attention_mask == reference["attention_mask"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_folder_gives_the_references_ids(tmp_path: Path, layout: Callable[[Path], None]) -> None:
    folder = a_folder(tmp_path / "tokenizer", layout)
    mine, reference = T5Tokenizer.from_pretrained(folder), Reference.from_pretrained(str(folder))
    assert (mine.pad_token_id, mine.eos_token_id) == (reference.pad_token_id, reference.eos_token_id)
    assert (len(mine), mine.model_max_length) == (len(reference), reference.model_max_length)

    @settings(max_examples=100)
    @given(texts)
    def same(text: str) -> None:
        assert mine.encode(text) == reference(text)["input_ids"]

    same()
    assert mine.encode("a <extra_id_7> b") == reference("a <extra_id_7> b")["input_ids"]


@pytest.fixture(scope="module")
def from_spiece(tmp_path_factory: pytest.TempPathFactory) -> T5Tokenizer:
    return T5Tokenizer.from_pretrained(a_folder(tmp_path_factory.mktemp("spiece") / "tokenizer", only_spiece))


@settings(max_examples=200)
@given(texts)
def test_the_sentencepiece_file_alone_gives_what_transformers_made_of_it(
    ours: T5Tokenizer, from_spiece: T5Tokenizer, text: str
) -> None:
    """transformers cannot read it here: it wants the packages sentencepiece and protobuf, which we do without."""
    assert from_spiece.encode(text) == ours.encode(text)


@pytest.fixture(scope="module")
def shipped() -> T5Tokenizer:
    return T5Tokenizer.from_pretrained(SHIPPED)


def test_the_shipped_vocabulary_is_the_published_one(shipped: T5Tokenizer) -> None:
    """Pieces, scores and table of characters are those of Flux's published tokenizer.json; so are the ids of texts."""
    model = (SHIPPED / "spiece.model").read_bytes()
    assert hashlib.sha256(model).hexdigest() == "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"
    data = json.loads(shipped._tokenizer.to_str())
    vocabulary = "".join(f"{text}\t{struct.pack('<f', score).hex()}\n" for text, score in data["model"]["vocab"])
    wanted = "fa69f0f530de4ba2880d96f270d72dd71558c5c9c877a1b8783a5cb1ad05a59e"
    assert hashlib.sha256(vocabulary.encode()).hexdigest() == wanted
    wanted = "0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b"
    assert hashlib.sha256(base64.b64decode(data["normalizer"]["precompiled_charsmap"])).hexdigest() == wanted
    assert (len(shipped), shipped.model_max_length, shipped.pad_token_id, shipped.eos_token_id) == (32100, 512, 0, 1)
    for each in json.loads((T5 / "published_ids.json").read_text(encoding="utf-8")):
        assert shipped.encode(each["text"]) == each["ids"], each["text"]


@pytest.fixture(scope="module")
def reference_of_shipped(shipped: T5Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' own over the shipped vocabulary, in the file that it reads without further packages."""
    folder = tmp_path_factory.mktemp("shipped")
    shipped.save_pretrained(folder)
    return Reference.from_pretrained(str(folder))


@settings(max_examples=300)
@given(texts, st.integers(1, 40))
def test_the_shipped_vocabulary_gives_the_references_ids(
    shipped: T5Tokenizer, reference_of_shipped: Any, text: str, length: int
) -> None:
    assert shipped.encode(text) == reference_of_shipped(text)["input_ids"]
    long = f"{text} {text} a photo of a cat" * 4
    how: dict[str, Any] = {"padding": "max_length", "max_length": length, "truncation": True}
    assert shipped(long, **how).input_ids == reference_of_shipped(long, **how)["input_ids"]


def test_sentinels_are_as_many_as_the_config_says(tmp_path: Path) -> None:
    few = T5Tokenizer.from_pretrained(a_folder(tmp_path / "tokenizer", fewer_sentinels))
    assert len(few) == 403
    assert few.encode("<extra_id_0><extra_id_2>") == [402, 400, 1]


def test_a_spec_is_loadable_with_either_file_and_says_which_are_missing(tmp_path: Path) -> None:
    def spec(folder: Path) -> ComponentSpec:
        return ComponentSpec(type_hint=("transformers", "T5TokenizerFast"), pretrained_model_name_or_path=str(folder))

    folder = a_folder(tmp_path / "tokenizer", only_spiece)
    assert not load_problems(spec(folder))
    assert isinstance(spec(folder).bindable().load(), T5Tokenizer)
    (folder / "spiece.model").unlink()
    [problem] = load_problems(spec(folder))
    assert "no tokenizer.json or spiece.model, which a T5TokenizerFast is read from" in problem


def test_threads_with_unlike_settings_do_not_disturb_each_other(ours: T5Tokenizer) -> None:
    text = "a red apple and a green apple and a blue apple"

    def call(length: int) -> bool:
        rows = [ours(text, padding="max_length", max_length=length, truncation=True).input_ids for _ in range(100)]
        return all(len(row) == length and row == rows[0] for row in rows)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, [4, 32, 7, 77, 5, 40, 9, 16]))


def test_a_length_with_no_room_for_the_end_token_is_refused(ours: T5Tokenizer) -> None:
    with pytest.raises(ConfigError, match="max_length: needs 1 or more, got 0: the end token takes a place"):
        ours("x", max_length=0, truncation=True)


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    def spoilt(name: str, file: str, content: bytes) -> Path:
        def change(folder: Path) -> None:
            only_spiece(folder)
            (folder / file).write_bytes(content)

        return a_folder(tmp_path / name, change)

    whole = (T5 / "spiece.model").read_bytes()
    with pytest.raises(LoadError, match=r"spiece\.model: is not a SentencePiece model \(it ends at byte"):
        T5Tokenizer.from_pretrained(spoilt("a", "spiece.model", whole[:3000]))
    with pytest.raises(LoadError, match=r"spiece\.model: is not a SentencePiece model \(wire type 7"):
        T5Tokenizer.from_pretrained(spoilt("b", "spiece.model", b"\xff\x00"))
    with pytest.raises(LoadError, match=r"needs a Unigram vocabulary .model_type 1., got 0 pieces of model_type 2"):
        T5Tokenizer.from_pretrained(spoilt("c", "spiece.model", b"\x12\x02\x18\x02"))
    with pytest.raises(LoadError, match="T5 needs 'Unigram', got 'BPE'"):
        T5Tokenizer.from_pretrained(spoilt("d", "tokenizer.json", b'{"model": {"type": "BPE"}}'))
    with pytest.raises(LoadError, match=r"tokenizer\.json: not a tokenizer file"):
        T5Tokenizer.from_pretrained(spoilt("e", "tokenizer.json", b'{"model": {"vocab": [1]}}'))
    empty = spoilt("f", "tokenizer.json", b"{}")
    (empty / "tokenizer.json").unlink()
    (empty / "spiece.model").unlink()
    with pytest.raises(LoadError, match=r"needs tokenizer\.json or spiece\.model"):
        T5Tokenizer.from_pretrained(empty)
