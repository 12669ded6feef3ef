"""CLIP's text encoders equal those of transformers, in numbers and in files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sfumato.components.models.clip import CLIPTextModel, CLIPTextModelWithProjection, TextEncoding
from sfumato.graph.errors import ConfigError, LoadError

EMOJI = Path(__file__).parents[2] / "presets/embedded/emoji/text_encoder"
FORMATS = Path(__file__).parents[1] / "files/formats"
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 20,
    "vocab_size": 100,
    "projection_dim": 16,
    "bos_token_id": 98,
    "eos_token_id": 99,
}
TOLERANCE = 1e-5

PAIRS = [
    (CLIPTextModel, transformers.CLIPTextModel),
    (CLIPTextModelWithProjection, transformers.CLIPTextModelWithProjection),
]
VARIANTS = [{}, {"hidden_act": "gelu"}, {"eos_token_id": 2, "bos_token_id": 0}, {"layer_norm_eps": 1e-3}]


def ids(length: int = 12, vocab: int = 100, end: int = 99) -> torch.Tensor:
    """Random ids with the end token twice, since it also pads; the last row has none."""
    drawn = torch.randint(3, vocab - 3, (3, length), generator=torch.Generator().manual_seed(0))
    drawn[0, 5], drawn[0, 9], drawn[1, 2] = end, end, end
    return drawn


def apart(mine: TextEncoding, theirs: Any) -> float:
    """The largest difference of anything that both give."""
    pairs = [(mine.last_hidden_state, theirs.last_hidden_state)]
    pooled = [name for name in ("pooler_output", "text_embeds") if getattr(theirs, name, None) is not None]
    pairs += [(getattr(mine, name), getattr(theirs, name)) for name in pooled]
    if mine.hidden_states is not None:
        assert len(mine.hidden_states) == len(theirs.hidden_states)
        pairs += zip(mine.hidden_states, theirs.hidden_states, strict=True)
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


def reference(kind: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return kind(transformers.CLIPTextConfig(**{**TINY, **changes})).eval()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "published"), PAIRS)
def test_an_encoder_saved_by_transformers_gives_the_same_numbers_here(
    tmp_path: Path, kind: Any, published: Any, changes: dict[str, Any]
) -> None:
    theirs = reference(published, **changes)
    theirs.save_pretrained(tmp_path)
    mine = kind.from_pretrained(tmp_path)
    got = mine(ids(), output_hidden_states=True)
    assert len(got.hidden_states) == TINY["num_hidden_layers"] + 1
    assert apart(got, theirs(ids(), output_hidden_states=True)) <= TOLERANCE


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "published"), PAIRS)
def test_an_encoder_saved_here_gives_the_same_numbers_in_transformers(
    tmp_path: Path, kind: Any, published: Any, changes: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    mine = kind(**{**TINY, **changes}).eval()
    mine.save_pretrained(tmp_path)
    theirs, info = published.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert apart(mine(ids(), output_hidden_states=True), theirs(ids(), output_hidden_states=True)) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, None])
def test_the_encoder_of_the_embedded_model_gives_the_references_numbers(dtype: torch.dtype | None) -> None:
    mine = CLIPTextModel.from_pretrained(EMOJI.parent, subfolder="text_encoder", dtype=dtype)
    theirs = transformers.CLIPTextModel.from_pretrained(EMOJI, dtype=dtype or torch.float16)
    assert mine.dtype == theirs.dtype
    assert not any(p.is_meta for p in mine.parameters())
    tokens = ids(32, 2048, 2047)
    assert apart(mine(tokens, output_hidden_states=True), theirs(tokens, output_hidden_states=True)) <= TOLERANCE


@pytest.mark.parametrize(("kind", "published"), PAIRS)
def test_a_mask_hides_tokens_as_in_the_reference(kind: Any, published: Any) -> None:
    theirs = reference(published)
    mine = kind(**TINY).eval()
    mine.load_state_dict({kind.published_name(k): v for k, v in theirs.state_dict().items()})
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[0, 6:], mask[1, :4] = 0, 0  # padding on the right; on the left, where the first rows see nothing
    assert apart(mine(ids(), mask), theirs(ids(), attention_mask=mask)) <= TOLERANCE


def test_a_token_attends_to_none_after_it() -> None:
    torch.manual_seed(0)
    mine = CLIPTextModel(**TINY).eval()
    one, other = ids(), ids()
    other[:, 7] = 50
    before, after = mine(one).last_hidden_state, mine(other).last_hidden_state
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


def test_the_pooled_row_is_the_first_end_token_or_with_the_old_number_the_largest_id() -> None:
    torch.manual_seed(0)
    new, old = CLIPTextModel(**TINY).eval(), CLIPTextModel(**{**TINY, "eos_token_id": 2}).eval()
    tokens = torch.tensor([[98, 7, 2, 99, 99]])
    got = new(tokens)
    assert torch.equal(got.pooler_output, got.last_hidden_state[:, 3])
    got = old(tokens)
    assert torch.equal(got.pooler_output, got.last_hidden_state[:, 3])


def test_files_of_older_versions_are_read(tmp_path: Path) -> None:
    """With a buffer of positions, without the prefix, and a whole CLIP with both encoders in one file."""
    theirs = reference(transformers.CLIPTextModelWithProjection)
    theirs.save_pretrained(tmp_path / "plain")
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    positions = {"text_model.embeddings.position_ids": torch.arange(20)[None]}
    vision = {"vision_model.embeddings.class_embedding": torch.zeros(3), "logit_scale": torch.tensor(1.0)}
    bare = {k.removeprefix("text_model."): v for k, v in tensors.items()}
    whole = {"model_type": "clip", "projection_dim": 7, "text_config": config, "vision_config": {}}
    folders = {"old": (tensors | positions, config), "bare": (bare, config), "whole": (tensors | vision, whole)}
    for name, (held, keys) in folders.items():
        (tmp_path / name).mkdir()
        save_file(held, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text(json.dumps(keys))
        for kind in (CLIPTextModel, CLIPTextModelWithProjection):
            got = kind.from_pretrained(tmp_path / name)(ids())
            assert float((got.last_hidden_state - theirs(ids()).last_hidden_state).abs().max()) <= TOLERANCE


def test_a_variant_and_shards_are_read(tmp_path: Path) -> None:
    mine = CLIPTextModel(**TINY)
    mine.half().save_pretrained(tmp_path, variant="fp16", max_shard_size="30KB")
    assert (tmp_path / "model.safetensors.index.fp16.json").is_file()
    again = CLIPTextModel.from_pretrained(tmp_path, variant="fp16", dtype=torch.float32)
    assert again.dtype == torch.float32
    assert all(torch.equal(a.float(), b) for a, b in zip(mine.parameters(), again.parameters(), strict=True))


def test_a_published_config_is_read_and_its_generic_keys_are_ignored() -> None:
    published = json.loads((FORMATS / "text_encoder_config.json").read_text())
    mine = CLIPTextModel.from_config({**published, "top_p": 1.0, "torchscript": False, "return_dict": True})
    assert (mine.config.hidden_act, mine.config.eos_token_id, mine.config.num_hidden_layers) == ("gelu", 2, 5)
    ours = ("transformers_version",)  # notes of who wrote the file
    assert mine.to_config() == {k: v for k, v in published.items() if k not in ours}
    assert CLIPTextModel.from_config(mine.to_config()).config == mine.config


def test_fresh_weights_have_the_reference_s_deviations() -> None:
    big = {**TINY, "hidden_size": 128, "intermediate_size": 256, "vocab_size": 1000}
    torch.manual_seed(0)
    mine = CLIPTextModelWithProjection(**big)
    theirs = reference(transformers.CLIPTextModelWithProjection, **big).state_dict()
    for name, tensor in mine.state_dict().items():
        if tensor.ndim == 2:
            assert float(tensor.std() / theirs[name].std()) == pytest.approx(1, abs=0.06), name


def test_wrong_configs_and_texts_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hidden_sise  no such key\. Did you mean 'hidden_size'"):
        CLIPTextModel(hidden_sise=32)
    with pytest.raises(ConfigError, match=r"num_attention_heads  needs to divide hidden_size \(32\), got 5"):
        CLIPTextModel(**{**TINY, "num_attention_heads": 5})
    with pytest.raises(ConfigError, match="CLIPTextModel needs a config of model_type 'clip_text_model', got 't5'"):
        CLIPTextModel.from_config({"model_type": "t5"})
    with pytest.raises(ConfigError, match="hidden_act"):
        CLIPTextModel.from_config({**TINY, "hidden_act": "relu", "model_type": "clip_text_model"})
    with pytest.raises(ValueError, match=r"Needs at most 20 tokens \(max_position_embeddings\), got 21"):
        CLIPTextModel(**TINY)(torch.zeros(1, 21, dtype=torch.long))
    CLIPTextModel(**TINY).save_pretrained(tmp_path)
    with pytest.raises(
        LoadError, match=r"does not fit CLIPTextModelWithProjection(.|\n)*missing: text_projection.weight"
    ):
        CLIPTextModelWithProjection.from_pretrained(tmp_path)
    with pytest.raises(LoadError, match=r"has no weights of the variant 'fp16'\. Looked for model\.fp16\.safetensors"):
        CLIPTextModel.from_pretrained(tmp_path, variant="fp16")
