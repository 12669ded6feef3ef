"""T5's encoder equals that of transformers, in numbers and in files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sfumato import ComponentSpec
from sfumato.components.models.t5 import T5EncoderModel, UMT5EncoderModel
from sfumato.components.storage.building import on_meta
from sfumato.graph.errors import ConfigError, LoadError

TINY: dict[str, Any] = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 37, "num_layers": 3, "num_heads": 4}
TOLERANCE = 1e-5

PAIRS = [
    (T5EncoderModel, transformers.T5EncoderModel, transformers.T5Config),
    (UMT5EncoderModel, transformers.UMT5EncoderModel, transformers.UMT5Config),
]
VARIANTS = [
    {"feed_forward_proj": "relu"},
    {"feed_forward_proj": "gated-gelu"},
    {"feed_forward_proj": "gated-silu", "d_kv": 16},
    {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10},
    {"feed_forward_proj": "gated-gelu", "layer_norm_epsilon": 1e-3, "num_layers": 1, "num_heads": 3},
]
# T5 1.1 XXL, which Stable Diffusion 3, Flux and PixArt read prompts with.
XXL: dict[str, Any] = {
    "d_ff": 10240,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "num_heads": 64,
    "num_layers": 24,
}


def reference(kind: Any, config: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    made = kind(config(**{**TINY, **changes})).eval()
    for name, weight in made.named_parameters():
        if "relative_attention_bias" in name or "norm" in name:  # else they hardly matter
            weight.data.normal_()
    return made


def ids(length: int = 40) -> torch.Tensor:
    return torch.randint(0, 100, (3, length), generator=torch.Generator().manual_seed(0))


def padding() -> torch.Tensor:
    """On the right, on the left, and everywhere."""
    mask = torch.ones(3, 40, dtype=torch.long)
    mask[0, 10:], mask[1, :5], mask[2] = 0, 0, 0
    return mask


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize(("kind", "published", "config"), PAIRS)
def test_an_encoder_saved_by_transformers_gives_the_same_numbers_here(
    tmp_path: Path, kind: Any, published: Any, config: Any, changes: dict[str, Any]
) -> None:
    theirs = reference(published, config, **changes)
    theirs.save_pretrained(tmp_path)
    mine = kind.from_pretrained(tmp_path)
    for mask in (None, padding()):
        want = theirs(ids(), attention_mask=mask).last_hidden_state
        got = mine(ids(), mask).last_hidden_state
        assert (got - want).abs().max() <= TOLERANCE
        assert not got.isnan().any()


@pytest.mark.parametrize("changes", VARIANTS[:2], ids=str)
@pytest.mark.parametrize(("kind", "published", "config"), PAIRS)
def test_an_encoder_saved_here_gives_the_same_numbers_in_transformers(
    tmp_path: Path, kind: Any, published: Any, config: Any, changes: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    mine = kind(**{**TINY, **changes}).eval()
    mine.save_pretrained(tmp_path)
    theirs, info = published.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    want = theirs(ids(), attention_mask=padding()).last_hidden_state
    assert (mine(ids(), padding()).last_hidden_state - want).abs().max() <= TOLERANCE


def test_hidden_tokens_change_nothing() -> None:
    torch.manual_seed(0)
    mine = T5EncoderModel(**TINY).eval()
    other = ids()
    other[0, 10:] = 7
    before, after = (mine(t, padding()).last_hidden_state for t in (ids(), other))
    assert torch.equal(before[0, :10], after[0, :10])
    assert not torch.equal(before[0, 10:], after[0, 10:])


def test_the_full_size_encoder_has_the_published_parameters() -> None:
    with on_meta():
        mine = T5EncoderModel(**XXL)
    with torch.device("meta"):
        theirs = transformers.T5EncoderModel(transformers.T5Config(**XXL))
    want = {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    assert {name: tuple(p.shape) for name, p in mine.named_parameters()} == want
    assert sum(p.numel() for p in mine.parameters()) == 4_762_310_656


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_same_weights_in_float32_as_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    reference(transformers.T5EncoderModel, transformers.T5Config, feed_forward_proj="gated-gelu").save_pretrained(
        tmp_path
    )
    mine = T5EncoderModel.from_pretrained(tmp_path, dtype=dtype)
    theirs = transformers.T5EncoderModel.from_pretrained(tmp_path, dtype=dtype)
    assert {n: p.dtype for n, p in mine.named_parameters()} == {n: p.dtype for n, p in theirs.named_parameters()}
    got, want = (model(ids()).last_hidden_state for model in (mine, theirs))
    assert got.dtype == want.dtype == dtype
    assert (got - want).abs().max() <= 8 * torch.finfo(dtype).eps * want.abs().max()


def test_float16_survives_values_that_it_cannot_hold(tmp_path: Path) -> None:
    """As in a checkpoint of T5 XXL: hidden states exceed 65504."""
    theirs = reference(transformers.T5EncoderModel, transformers.T5Config, feed_forward_proj="gated-gelu")
    theirs.encoder.block[0].layer[1].DenseReluDense.wo.weight.data.mul_(1e6)
    theirs.save_pretrained(tmp_path)
    half, whole = (T5EncoderModel.from_pretrained(tmp_path, dtype=d) for d in (torch.float16, torch.float32))
    got, want = half(ids()).last_hidden_state.float(), whole(ids()).last_hidden_state
    assert (got - want).abs().max() <= 0.02 * want.abs().max()


def test_files_of_a_whole_t5_and_files_with_the_table_in_the_encoder_are_read(tmp_path: Path) -> None:
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**TINY)).eval()
    whole.save_pretrained(tmp_path)
    want = whole.encoder(ids()).last_hidden_state
    assert (T5EncoderModel.from_pretrained(tmp_path)(ids()).last_hidden_state - want).abs().max() <= TOLERANCE
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert (T5EncoderModel.from_pretrained(tmp_path)(ids()).last_hidden_state - want).abs().max() <= TOLERANCE


def test_a_spec_of_transformers_loads_ours(tmp_path: Path) -> None:
    reference(*PAIRS[0][1:]).save_pretrained(tmp_path)
    hint = ("transformers", "T5EncoderModel")
    spec = ComponentSpec(type_hint=hint, pretrained_model_name_or_path=str(tmp_path))
    assert isinstance(spec.bindable().load(), T5EncoderModel)


def test_a_config_that_is_not_supported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"feed_forward_proj +needs .*, got 'gated-tanh'"):
        T5EncoderModel(feed_forward_proj="gated-tanh")
    with pytest.raises(ConfigError, match=r"relative_attention_num_buckets +needs an even number from 4 to "):
        T5EncoderModel(relative_attention_num_buckets=7)
    with pytest.raises(ConfigError, match="T5EncoderModel needs a config of model_type 't5', got 'umt5'"):
        T5EncoderModel.from_config({"model_type": "umt5"})
    reference(*PAIRS[0][1:]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_layers": 4}))
    with pytest.raises(LoadError, match=r"missing: encoder\.block\.3\.layer\.0"):
        T5EncoderModel.from_pretrained(tmp_path)
