"""The files of a tokenizer folder, in the layouts of transformers 4 and 5."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue
from tokenizers import AddedToken

from ...graph.errors import LoadError
from ...graph.limits import check_limit, limit
from ...graph.validate import value_text
from ..storage.files import read_json, read_lines

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The roles that a config gives to tokens, in the order in which transformers adds them."""


def read_vocabulary(root: Path) -> tuple[dict[str, int], list[tuple[str, str]], dict[int, AddedToken]]:
    """The vocabulary, the merges in order, and the added tokens by id. LoadError for missing or damaged files."""
    whole = root / "tokenizer.json"
    if whole.is_file():
        data = read_json(whole, "vocabulary_bytes")
        model = model_in(whole, data)
        if model.get("type", "BPE") != "BPE":
            raise LoadError(f"{whole}: model.type: CLIP needs 'BPE', got {value_text(model['type'])}.")
        try:
            merges = [tuple(m.split(" ")) if isinstance(m, str) else (m[0], m[1]) for m in model["merges"]]
            added = {int(t["id"]): token_from({k: v for k, v in t.items() if k != "id"}) for t in data["added_tokens"]}
            return pieces_by_text(model["vocab"]), [(a, b) for a, b in merges], added
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise LoadError(f"{whole}: not a tokenizer file ({error!r}). Fetch it again.") from error
    missing = [name for name in ("vocab.json", "merges.txt") if not (root / name).is_file()]
    if missing:
        raise LoadError(
            f"{root}: no tokenizer.json, and no {' and no '.join(missing)}. "
            "A CLIP tokenizer needs tokenizer.json, or vocab.json and merges.txt."
        )
    vocab = read_json(root / "vocab.json", "vocabulary_bytes")
    lines = read_lines(root / "merges.txt", "vocabulary_bytes")
    pairs = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    bad = next((index for index, pair in enumerate(pairs) if len(pair) != 2), None)
    if bad is not None:
        raise LoadError(f"{root / 'merges.txt'}: merge {bad + 1} needs two parts, got {' '.join(pairs[bad])!r}.")
    try:
        return pieces_by_text(vocab), [(pair[0], pair[1]) for pair in pairs], {}
    except ValueError as error:
        raise LoadError(f"{root / 'vocab.json'}: {error}") from error


def pieces_by_text(vocab: Mapping[str, Any]) -> dict[str, int]:
    """A vocabulary, as JSON. ValueError for ids that are none, and for more or longer pieces than any has."""
    check_pieces(vocab)
    for text, index in vocab.items():
        if type(index) is not int or not 0 <= index < limit("pieces"):
            raise ValueError(f"needs ids from 0 to {limit('pieces')}, got {value_text(index)} for {value_text(text)}.")
    return dict(vocab)


def check_pieces(pieces: Collection[str]) -> None:
    """Raise ValueError for more or longer pieces than any vocabulary has."""
    check_limit("pieces", len(pieces))
    check_limit("piece_letters", max(map(len, pieces), default=0))


def model_in(whole: Path, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model in a `tokenizer.json`. LoadError if it is no JSON object."""
    model = data.get("model") or {}
    if not isinstance(model, dict):
        raise LoadError(f"{whole}: model: needs a JSON object, got {value_text(model)}. Fetch the file again.")
    return cast("Mapping[str, Any]", model)


def read_special_tokens(
    root: Path, config: Mapping[str, JsonValue]
) -> tuple[dict[str, str | AddedToken], list[str | AddedToken]]:
    """The named tokens, and the further special tokens.

    If the config has no list of added tokens, `special_tokens_map.json` overrides it.
    """
    table: dict[str, JsonValue] = dict(config)
    flagged: set[str] = set()
    token_map = root / "special_tokens_map.json"
    if "added_tokens_decoder" not in config and token_map.is_file():
        over = read_json(token_map)
        table |= over
        flagged = set(over)
    named: dict[str, str | AddedToken] = {}
    for name in NAMED:
        value = table.get(name)
        if isinstance(value, str):
            named[name] = value
        elif isinstance(value, dict):
            named[name] = token_from(value | ({"special": True} if name in flagged else {}))
    extra = table.get("extra_special_tokens") or table.get("additional_special_tokens")
    further = list(extra.values()) if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    return named, [token_from(t) if isinstance(t, dict) else str(t) for t in further]


def token_from(value: Mapping[str, Any]) -> AddedToken:  # flags and text of one token, as JSON
    """A token from its JSON. Other keys (`__type`) are ignored."""
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{key: value[key] for key in known if key in value})


def text_of(token: str | AddedToken) -> str:
    """The text of a token."""
    return token if isinstance(token, str) else token.content


def flags_of(token: AddedToken) -> dict[str, JsonValue]:
    """The JSON of a token; `token_from` is the inverse."""
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }
