"""PixArt's transformer gives the reference's numbers, from the files of today and from the first ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato import ComponentSpec, ConfigError
from sfumato.components.models.pixart import PixArtTransformer2DModel
from sfumato.components.storage.building import on_meta
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Blur, Drop, Identity
from sfumato.components.taps.tap import Tap, Taps

TOLERANCE = 1e-5  # float32; measured: at most 5e-6

TINY: dict[str, Any] = {
    "sample_size": 8,
    "num_layers": 3,
    "attention_head_dim": 12,
    "num_attention_heads": 4,
    "cross_attention_dim": 48,
    "caption_channels": 32,
    "use_additional_conditions": False,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sigma": TINY,
    "alpha with sizes": {**TINY, "use_additional_conditions": True},
    "alpha for 1024 pixels": {**TINY, "sample_size": 128, "use_additional_conditions": None},
    "no variance": {**TINY, "out_channels": None, "interpolation_scale": 2},
    "prompts as they are": {**TINY, "caption_channels": None, "cross_attention_dim": 20},
    "no bias": {**TINY, "attention_bias": False},
}

Pair = tuple[Any, Any]
Read = Callable[..., Pair]
Apart = Callable[[Tensor, Tensor], float]


def inputs_of(config: dict[str, Any], sides: tuple[int, int] = (8, 12)) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same inputs for ours and for theirs. In the first row most of the prompt is padding."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, *sides, generator=generator)
    words = torch.randn(2, 7, config["caption_channels"] or config["cross_attention_dim"], generator=generator)
    mask = torch.ones(2, 7)
    mask[0, 3:] = 0
    both: dict[str, Any] = {"hidden_states": x, "encoder_hidden_states": words, "timestep": torch.tensor([3.5, 900.0])}
    both["encoder_attention_mask"] = mask
    sizes = torch.tensor([[64.0, 96.0, 64 / 96], [512.0, 300.0, 512 / 300]])
    reads_sizes = config["use_additional_conditions"] is not False
    added = {"resolution": sizes[:, :2] if reads_sizes else None, "aspect_ratio": sizes[:, 2:] if reads_sizes else None}
    return {**both, "sizes": sizes if reads_sizes else None}, {**both, "added_cond_kwargs": added}


@pytest.mark.parametrize("sides", [(8, 8), (8, 12), (4, 2)])
@pytest.mark.parametrize("name", CONFIGS)
def test_our_model_reads_their_file_and_gives_their_numbers(
    read_random: Read, apart: Apart, name: str, sides: tuple[int, int]
) -> None:
    ours, theirs = read_random("PixArtTransformer2DModel", CONFIGS[name])
    mine, other = inputs_of(CONFIGS[name], sides)
    assert apart(ours(**mine), theirs(**other).sample) < TOLERANCE
    del mine["encoder_attention_mask"], other["encoder_attention_mask"]
    assert apart(ours(**mine), theirs(**other).sample) < TOLERANCE


def test_positions_may_be_made_once(read_random: Read) -> None:
    ours, _ = read_random("PixArtTransformer2DModel", TINY)
    mine, _ = inputs_of(TINY)
    assert torch.equal(ours(**mine), ours(**mine, positions=ours.positions(8, 12)))


def test_their_model_reads_our_file(read_by_them: Read, apart: Apart) -> None:
    ours, theirs = read_by_them("PixArtTransformer2DModel", TINY)
    mine, other = inputs_of(TINY)
    assert apart(ours(**mine), theirs(**other).sample) < TOLERANCE


def test_first_files_name_another_class_and_are_read(read_random: Read, tmp_path: Path) -> None:
    ours, _ = read_random("PixArtTransformer2DModel", TINY)
    file = tmp_path / "theirs" / "config.json"
    legacy = {"_class_name": "Transformer2DModel", "double_self_attention": False, "num_vector_embeds": None}
    legacy |= {"only_cross_attention": False, "use_linear_projection": False}
    file.write_text(json.dumps({**json.loads(file.read_text()), **legacy}))
    hint = ("diffusers", "Transformer2DModel")
    spec = ComponentSpec(type_hint=hint, pretrained_model_name_or_path=str(tmp_path / "theirs"))
    read = spec.bindable().load()
    assert isinstance(read, PixArtTransformer2DModel)
    assert torch.equal(read(**inputs_of(TINY)[0]), ours(**inputs_of(TINY)[0]))


def test_the_full_size_model_has_the_published_parameters(reference: Any) -> None:
    config: dict[str, Any] = {"caption_channels": 4096, "use_additional_conditions": False}
    with on_meta():
        ours = PixArtTransformer2DModel(**config)
    with torch.device("meta"):
        theirs = reference.PixArtTransformer2DModel.from_config(config)
    want = {key: tuple(t.shape) for key, t in theirs.state_dict().items()}
    assert {key: tuple(t.shape) for key, t in ours.state_dict().items()} == want
    assert sum(p.numel() for p in ours.parameters()) == 610_856_096


@pytest.mark.parametrize("change", [Identity(), Blur(), Blur(1.0), Drop(), Drop(feed_forward=False)])
def test_every_change_makes_a_difference_and_leaves_the_model_alone(
    read_random: Read, change: Identity | Blur | Drop
) -> None:
    ours, _ = read_random("PixArtTransformer2DModel", TINY)
    mine, _ = inputs_of(TINY)
    before = ours(**mine)
    seen = apply_taps(ours, Taps((Tap(change),)), (8, 12))
    assert (seen(**mine) - before).abs().max() > 1e-3
    assert torch.equal(ours(**mine), before)


def test_wrong_configs_and_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"norm_type +needs .*, got 'ada_norm_zero'"):
        PixArtTransformer2DModel(norm_type="ada_norm_zero")
    with pytest.raises(ConfigError, match=r"cross_attention_dim +needs 48, got 20: prompts are projected"):
        PixArtTransformer2DModel(**{**TINY, "cross_attention_dim": 20})
    sized = PixArtTransformer2DModel(**CONFIGS["alpha with sizes"])
    without = PixArtTransformer2DModel(**TINY)
    mine, _ = inputs_of(TINY)
    with pytest.raises(TypeError, match="Needs sizes, got None: the model's use_additional_conditions asks"):
        sized(**mine)
    with pytest.raises(TypeError, match="Got sizes, but this model does not read it"):
        without(**{**mine, "sizes": torch.ones(2, 3)})
