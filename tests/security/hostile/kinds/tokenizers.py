"""Files of tokenizers: vocabularies, merges, added tokens and configs of the wrong type."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint import checkpoint, used
from ..table import Action, Hostile, drawn, some
from .odd import ODD
from .weights import CONTROL

VOCABULARIES: dict[str, Any] = {
    "a list": ["a", "b"],
    "an empty object": {},
    "texts": {"a": "0", "<|endoftext|>": "1"},
    "fractions": {"a": 0.5, "<|endoftext|>": 1.5},
    "null": {"a": None},
    "lists": {"a": [1]},
    "below zero": {"a": -1, "<|endoftext|>": -2},
    "2**31": {"a": 2**31, "<|endoftext|>": 2**32 - 1},
    "2**40": {"a": 2**40},
    "all the same": {"a": 7, "b": 7, "<|startoftext|>": 7, "<|endoftext|>": 7},
    "past the embedding": {"<|startoftext|>": 10**6, "<|endoftext|>": 10**6 + 1, "f": 10**6 + 2, "o": 10**6 + 3},
    "control characters": {CONTROL: 0, "<|endoftext|>": 1},
    "an empty text": {"": 0, "<|endoftext|>": 1},
    "a lone surrogate": {"\ud800": 0, "<|endoftext|>": 1},
    "a long word": {"x" * 10**6: 0, "<|endoftext|>": 1},
    "400,000 words": {f"w{i}": i for i in range(400_000)},
}
MERGES: dict[str, bytes] = {
    "empty": b"",
    "three parts": b"#version: 0.2\na b c\n",
    "one part": b"a\n",
    "not in the vocabulary": b"qqq zzz\n",
    "not UTF-8": b"\xff\xfe \xfa\n",
    "control characters": f"{CONTROL} b\n".encode(),
    "a long line": b"a" * 10**6 + b" b\n",
    "500,000 lines": b"a b\n" * 500_000,
    "NUL": bytes(1000),
}
WHOLE: dict[str, Any] = {
    "a list": [],
    "empty": {},
    "model null": {"model": None, "added_tokens": []},
    "model list": {"model": [], "added_tokens": []},
    "model text": {"model": "BPE", "added_tokens": []},
    "type list": {"model": {"type": ["BPE"], "vocab": {}, "merges": []}, "added_tokens": []},
    "WordPiece": {"model": {"type": "WordPiece", "vocab": {}}, "added_tokens": []},
    "type control": {"model": {"type": CONTROL}, "added_tokens": []},
    "vocab list": {"model": {"type": "BPE", "vocab": [1, 2], "merges": []}, "added_tokens": []},
    "vocab pairs": {"model": {"type": "BPE", "vocab": [["a", 0.5]], "merges": []}, "added_tokens": []},
    "merges null": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": None}, "added_tokens": []},
    "merges numbers": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [1]}, "added_tokens": []},
    "merges triples": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b", "c"]]}, "added_tokens": []},
    "merges empty": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [[]]}, "added_tokens": []},
    "merges of numbers": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [[1, 2]]}, "added_tokens": []},
    "added null": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": None},
    "added numbers": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [7]},
    "added without id": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [{"content": "a"}]},
    "added far": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": 10**30, "content": "a"}],
    },
    "added nan": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": float("inf"), "content": "a"}],
    },
    "added content number": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": 1, "content": 7}],
    },
    "added empty content": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": 1, "content": ""}],
    },
    "added flags texts": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": 1, "content": "a", "special": "x"}],
    },
    "added 100,000": {
        "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        "added_tokens": [{"id": i, "content": f"<{i}>"} for i in range(100_000)],
    },
}
CONFIG_KEYS = (
    "model_max_length",
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "padding_side",
    "truncation_side",
    "added_tokens_decoder",
    "additional_special_tokens",
    "extra_special_tokens",
    "tokenizer_class",
    "auto_map",
    "chat_template",
    "clean_up_tokenization_spaces",
    "do_lower_case",
)
ADDED: dict[str, Any] = {
    "a number that is a text": {"x": {"content": "a"}},
    "many digits": {"9" * 5000: {"content": "a"}},
    "no content": {"1": {}},
    "content null": {"1": {"content": None}},
    "content list": {"1": {"content": ["a"]}},
    "flags lists": {"1": {"content": "a", "lstrip": []}},
    "below zero": {"-1": {"content": "a"}},
    "far": {"4000000000": {"content": "<far>"}},
    "control characters": {"1": {"content": CONTROL}},
    "long": {"1": {"content": "x" * 10**6}},
}


def inputs() -> Iterator[Hostile]:
    """Each file of the tokenizer in turn."""
    for name, vocabulary in VOCABULARIES.items():
        yield Hostile(
            f"vocab.json: {name}", lambda place, v=vocabulary: _file(place, "vocab.json", json.dumps(v).encode())
        )
    for name, text in MERGES.items():
        yield Hostile(f"merges.txt: {name}", lambda place, t=text: _file(place, "merges.txt", t))
    for name, whole in WHOLE.items():
        yield Hostile(
            f"tokenizer.json: {name}", lambda place, w=whole: _file(place, "tokenizer.json", json.dumps(w).encode())
        )
    random = drawn("tokenizers")
    for key in CONFIG_KEYS:
        for name in random.sample([*ODD], some(4)):
            yield Hostile(f"{key} is {name}", lambda place, k=key, n=name: _config(place, {k: ODD[n]}))
    for name, added in ADDED.items():
        yield Hostile(f"added tokens: {name}", lambda place, a=added: _config(place, {"added_tokens_decoder": a}))
    for file in ("special_tokens_map.json", "added_tokens.json", "tokenizer_config.json", "vocab.json"):
        for name, text in {
            "a list": b"[]",
            "text": b"x",
            "deep": b"[" * 100_000,
            "numbers": b'{"a": {"b": 1}, "bos_token": 7}',
            "web page": b"<html>",
        }.items():
            yield Hostile(f"{file}: whole {name}", lambda place, f=file, t=text: _file(place, f, t))
    for name, data in PIECES.items():
        yield Hostile(f"spiece.model: {name}", lambda place, d=data: _pieces(place, d))
    for name, whole in UNIGRAMS.items():
        yield Hostile(f"T5's tokenizer.json: {name}", lambda place, w=whole: _unigram(place, w))


PIECES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "a length of 2**60": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x0f",
    "an endless number": b"\x80" * 10**6,
    "groups": b"\x0b" * 100_000,
    "no text": b"\x0a\x00" * 1000,
    "one piece": b"\x0a\x08\x0a\x01a\x15\x00\x00\x80\x3f",
    "a score that is not a number": b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f" * 4,
    "a table that is wrong": b"\x0a\x08\x0a\x01a\x15\x00\x00\x80\x3f" * 4 + b"\x1a\x06\x12\x04\xff\xff\xff\xff",
    "not UTF-8": b"\x0a\x08\x0a\x01\xff\x15\x00\x00\x80\x3f" * 4,
}
_UNIGRAM = {"type": "Unigram", "unk_id": 2, "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u2581a", -1.0]]}
UNIGRAMS: dict[str, Any] = {
    "no vocabulary": {"model": {"type": "Unigram"}, "added_tokens": []},
    "an empty vocabulary": {"model": {"type": "Unigram", "vocab": []}, "added_tokens": []},
    "scores of texts": {"model": {**_UNIGRAM, "vocab": [["a", "x"]]}, "added_tokens": []},
    "scores that are not numbers": {"model": {**_UNIGRAM, "vocab": [["a", float("nan")]] * 4}, "added_tokens": []},
    "a normalizer that is a list": {"model": _UNIGRAM, "added_tokens": [], "normalizer": []},
    "normalizers that are numbers": {
        "model": _UNIGRAM,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [7]},
    },
    "a table that is no base64": {
        "model": _UNIGRAM,
        "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "!!"},
    },
    "a table of random bytes": {
        "model": _UNIGRAM,
        "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA" * 100},
    },
    "a table that says too much": {
        "model": _UNIGRAM,
        "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////////////////////w=="},
    },
    "a table that is a number": {
        "model": _UNIGRAM,
        "added_tokens": [],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": 7},
    },
}


def _file(place: Path, name: str, text: bytes) -> Action:
    folder = checkpoint(place)
    (folder / "tokenizer" / name).write_bytes(text)
    return used(folder)


def _config(place: Path, changes: dict[str, Any]) -> Action:
    folder = checkpoint(place)
    file = folder / "tokenizer/tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return used(folder)


def _pieces(place: Path, data: bytes) -> Action:
    return _t5(place, {"spiece.model": data})


def _unigram(place: Path, whole: Any) -> Action:
    return _t5(place, {"tokenizer.json": json.dumps(whole).encode()})


def _t5(place: Path, files: dict[str, bytes]) -> Action:
    from sfumato.components.loading.tokenizer_t5 import T5Tokenizer

    for name, data in files.items():
        (place / name).write_bytes(data)

    def action() -> list[int]:
        return T5Tokenizer.from_pretrained(place).encode("a fox")

    return action
