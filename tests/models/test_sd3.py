"""SD3's transformer and its control nets give the reference's numbers, and taps reach their layers."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato import ConfigError
from sfumato.components.models.patch_embedding import sincos_positions
from sfumato.components.models.sd3 import SD3Transformer2DModel
from sfumato.components.models.sd3_controlnet import SD3ControlNetModel
from sfumato.components.storage.building import on_meta
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Blur, Drop, Identity
from sfumato.components.taps.tap import Tap, Taps

TOLERANCE = 1e-5  # float32; measured: at most 3e-6

TINY: dict[str, Any] = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "3 medium": TINY,
    "3.5 large": {**TINY, "qk_norm": "rms_norm"},
    "3.5 medium": {**TINY, "qk_norm": "rms_norm", "dual_attention_layers": [0, 1]},
    "the last is dual": {**TINY, "dual_attention_layers": [0, 3]},
    "one layer": {**TINY, "num_layers": 1},
    "other patches": {**TINY, "patch_size": 1, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 16},
    "out_channels as in": {**TINY, "out_channels": None},
}
CONTROL: dict[str, dict[str, Any]] = {
    "of 3": {**TINY, "num_layers": 2},
    "of 3, with a mask": {**TINY, "num_layers": 2, "extra_conditioning_channels": 1},
    "of 3.5 medium": {**TINY, "qk_norm": "rms_norm", "dual_attention_layers": [0, 7]},
    "without places": {**TINY, "pos_embed_type": None},
    "of 3.5 large": {
        **TINY,
        "joint_attention_dim": None,
        "use_pos_embed": False,
        "pos_embed_type": None,
        "pos_embed_max_size": None,
        "caption_projection_dim": 7,
    },
}
FULL: dict[str, tuple[dict[str, Any], int]] = {
    "stable-diffusion-3-medium": (
        {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
        2_028_328_000,
    ),
    "stable-diffusion-3.5-medium": (
        {
            "num_layers": 24,
            "num_attention_heads": 24,
            "caption_projection_dim": 1536,
            "pos_embed_max_size": 384,
            "dual_attention_layers": list(range(13)),
            "qk_norm": "rms_norm",
        },
        2_243_171_520,
    ),
    "stable-diffusion-3.5-large": (
        {
            "num_layers": 38,
            "num_attention_heads": 38,
            "caption_projection_dim": 2432,
            "pos_embed_max_size": 192,
            "qk_norm": "rms_norm",
        },
        8_056_627_520,
    ),
}

Pair = tuple[Any, Any]
Apart = Callable[[Tensor, Tensor], float]
Read = Callable[..., Pair]


def inputs_of(config: dict[str, Any], sides: tuple[int, int] = (8, 10), rows: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "hidden_states": noise(rows, config["in_channels"], *sides),
        "encoder_hidden_states": noise(rows, 5, config["joint_attention_dim"] or 24),
        "pooled_projections": noise(rows, config["pooled_projection_dim"]),
        "timestep": torch.linspace(900, 3.5, rows),
    }


# ---------------------------------------------------------------------------------------------- beside the reference
@pytest.mark.parametrize("name", CONFIGS)
def test_our_transformer_reads_their_file_and_gives_their_numbers(read_random: Read, apart: Apart, name: str) -> None:
    config = CONFIGS[name]
    ours, theirs = read_random("SD3Transformer2DModel", config)
    for inputs in (inputs_of(config), inputs_of(config, (2, 12), 1)):
        assert apart(ours(**inputs), theirs(**inputs).sample) < TOLERANCE


@pytest.mark.parametrize("name", CONFIGS)
def test_their_model_reads_our_file(read_by_them: Read, apart: Apart, name: str) -> None:
    """Our position map is saved too, though no file was read for it."""
    config = CONFIGS[name]
    ours, theirs = read_by_them("SD3Transformer2DModel", config)
    fresh = type(theirs).from_config(config)
    assert apart(ours.pos_embed.pos_embed, fresh.pos_embed.pos_embed) < 1e-6
    assert apart(ours(**inputs_of(config)), theirs(**inputs_of(config)).sample) < TOLERANCE


@pytest.mark.parametrize("many", [1, 2, 3, 4])
def test_residuals_of_a_control_net(read_random: Read, apart: Apart, many: int) -> None:
    ours, theirs = read_random("SD3Transformer2DModel", TINY)
    generator = torch.Generator().manual_seed(2)
    added = [torch.randn(2, 20, 32, generator=generator) for _ in range(many)]
    expected = theirs(**inputs_of(TINY), block_controlnet_hidden_states=added).sample
    assert apart(ours(**inputs_of(TINY), block_controlnet_hidden_states=added), expected) < TOLERANCE
    assert apart(ours(**inputs_of(TINY)), expected) > 1e-3


def test_the_layer_of_a_control_net_for_each_block_is_computed_in_floats_as_published(read_random: Read) -> None:
    """18 blocks, 14 layers: block 9 gets layer 6, for 9 / (18 / 14) is 6.999…"""
    config = {**TINY, "num_layers": 18, "num_attention_heads": 1, "caption_projection_dim": 8}
    ours, theirs = read_random("SD3Transformer2DModel", config)
    added = list(torch.randn(14, 2, 20, 8, generator=torch.Generator().manual_seed(2)))
    got = ours(**inputs_of(config), block_controlnet_hidden_states=added)
    want = theirs(**inputs_of(config), block_controlnet_hidden_states=added).sample
    assert (got - want).abs().max() < TOLERANCE * max(1, float(want.abs().max()))


@pytest.mark.parametrize("name", CONTROL)
def test_our_control_net_gives_the_numbers_of_theirs(read_random: Read, apart: Apart, name: str) -> None:
    config = CONTROL[name]
    ours, theirs = read_random("SD3ControlNetModel", config)
    inputs: dict[str, Any] = inputs_of(config)
    if config["joint_attention_dim"] is None:  # the transformer made tokens of the latents
        inputs |= {"encoder_hidden_states": None, "hidden_states": torch.randn(2, 20, 32)}
    inputs["controlnet_cond"] = torch.randn(2, 4 + config.get("extra_conditioning_channels", 0), 8, 10)
    expected = theirs(**inputs, conditioning_scale=0.7, return_dict=False)[0]
    got = ours(**inputs, conditioning_scale=0.7)
    assert len(got) == len(expected) == config["num_layers"]
    for a, b in zip(got, expected, strict=True):
        assert apart(a, b) < TOLERANCE


@pytest.mark.parametrize("name", FULL)
def test_full_size_models_have_the_published_parameters(reference: Any, name: str) -> None:
    config, count = FULL[name]
    with on_meta():
        ours = SD3Transformer2DModel(**config)
    with torch.device("meta"):
        theirs = reference.SD3Transformer2DModel.from_config(config)
    want = {key: tuple(t.shape) for key, t in theirs.state_dict().items()}
    assert {key: tuple(t.shape) for key, t in ours.state_dict().items()} == want
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == count


def test_half_precision_is_as_near_as_its_digits_allow(read_random: Read, apart: Apart) -> None:
    ours, theirs = read_random("SD3Transformer2DModel", CONFIGS["3.5 medium"])
    for dtype in (torch.float16, torch.bfloat16):
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        inputs = {key: t.to(dtype) for key, t in inputs_of(TINY).items()}
        got, want = ours(**inputs).float(), theirs(**inputs).sample.float()
        assert apart(got, want) < 20 * torch.finfo(dtype).eps


# --------------------------------------------------------------------------------------------------------------- taps
def test_skipped_layers_are_those_that_the_reference_skips(read_random: Read, apart: Apart) -> None:
    ours, theirs = read_random("SD3Transformer2DModel", CONFIGS["3.5 medium"])
    seen = apply_taps(ours, Taps((Tap(Drop(), (1, 3)),)), (8, 10))
    assert apart(seen(**inputs_of(TINY)), theirs(**inputs_of(TINY), skip_layers=[1, 3]).sample) < TOLERANCE


def test_default_layers_are_those_published_with_3_5_medium() -> None:
    with on_meta():
        full = SD3Transformer2DModel(**FULL["stable-diffusion-3.5-medium"][0])
    assert [path.rpartition(".")[2] for path in full.perturbable_layers().default] == ["7", "8", "9"]
    few = SD3Transformer2DModel(**TINY)
    assert list(few.perturbable_layers().default) == ["transformer_blocks.2"]


@pytest.mark.parametrize("change", [Identity(), Blur(), Blur(1.0), Drop(), Drop(feed_forward=False), Drop(dropout=0.5)])
@pytest.mark.parametrize("name", ["3 medium", "3.5 medium"])
def test_every_change_makes_a_difference_and_leaves_the_model_alone(
    read_random: Read, name: str, change: Identity | Blur | Drop
) -> None:
    ours, _ = read_random("SD3Transformer2DModel", CONFIGS[name])
    before = ours(**inputs_of(TINY))
    seen = apply_taps(ours, Taps((Tap(change, (0, 2)),)), (8, 10))
    assert (seen(**inputs_of(TINY)) - before).abs().max() > 1e-3
    assert torch.equal(ours(**inputs_of(TINY)), before)


@pytest.mark.parametrize("layers", [(1,), (0, 2), (3,)])
def test_perturbed_attention_is_that_of_the_published_pipeline(
    read_random: Read, apart: Apart, layers: tuple[int, ...]
) -> None:
    """Tokens of the image attend to themselves and to the prompt; those of the prompt to all."""
    ours, theirs = read_random("SD3Transformer2DModel", CONFIGS["3 medium"])  # it ignores norms of queries and keys
    processor = import_module("diffusers.models.attention_processor").PAGJointAttnProcessor2_0
    for layer in layers:
        theirs.transformer_blocks[layer].attn.set_processor(processor())
    seen = apply_taps(ours, Taps((Tap(Identity(), layers),)), (8, 10))
    given = inputs_of(TINY)
    twice = {key: torch.cat([t, t]) for key, t in given.items()}  # it perturbs the second half
    expected = theirs(**twice).sample.chunk(2)[1]
    assert apart(seen(**given), expected) < TOLERANCE
    assert apart(ours(**given), expected) > 1e-3


def test_both_attentions_of_a_dual_block_are_perturbed(read_random: Read) -> None:
    ours, _ = read_random("SD3Transformer2DModel", CONFIGS["3.5 medium"])
    seen = apply_taps(ours, Taps((Tap(Identity(), (0,)),)), (8, 10))
    block, own = seen.transformer_blocks[0], ours.transformer_blocks[0]
    assert type(block.attn) is not type(own.attn)
    assert type(block.attn2) is not type(own.attn2)
    assert block.attn2.to_q.weight is own.attn2.to_q.weight


# -------------------------------------------------------------------------------------------------------------- places
def test_positions_are_cut_from_the_middle_of_the_map() -> None:
    embed = SD3Transformer2DModel(**TINY).pos_embed
    for parameter in embed.proj.parameters():
        parameter.data.zero_()
    whole = embed(torch.zeros(1, 4, 24, 24)).unflatten(1, (12, 12))
    part = embed(torch.zeros(1, 4, 6, 10)).unflatten(1, (3, 5))
    assert torch.equal(part, whole[:, 4:7, 3:8])


def test_positions_of_rows_and_columns_differ() -> None:
    waves = sincos_positions(32, (3, 5), 8).unflatten(0, (3, 5))
    assert torch.equal(waves[0, :, :16], waves[2, :, :16])  # the first half tells the column
    assert torch.equal(waves[:, 0, 16:], waves[:, 4, 16:])
    assert not torch.equal(waves[0, :, 16:], waves[2, :, 16:])


@pytest.mark.parametrize("sides", [(26, 8), (8, 26)])
def test_an_image_that_is_larger_than_the_map_is_refused(sides: tuple[int, int]) -> None:
    model = SD3Transformer2DModel(**TINY)
    with pytest.raises(ValueError, match=r"Needs latents of at most 24x24 \(pos_embed_max_size\), got "):
        model(**inputs_of(TINY, sides))
    with pytest.raises(ValueError, match="sides in multiples of 2, got 7x8"):
        model(**inputs_of(TINY, (7, 8)))


def test_wrong_configs_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"caption_projection_dim +needs 32 \(num_attention_heads x attention_head_dim\), got 1152"
    ):
        SD3Transformer2DModel(num_attention_heads=4, attention_head_dim=8)
    with pytest.raises(ConfigError, match=r"qk_norm +needs .*, got 'layer_norm'"):
        SD3Transformer2DModel(**{**TINY, "qk_norm": "layer_norm"})
    with pytest.raises(ConfigError, match=r"pos_embed_max_size +needs a number, got null: use_pos_embed asks"):
        SD3ControlNetModel(**{**TINY, "pos_embed_max_size": None})


def test_a_control_net_that_reads_the_prompt_needs_it() -> None:
    net = SD3ControlNetModel(**TINY)
    inputs: dict[str, Any] = {**inputs_of(TINY), "controlnet_cond": torch.zeros(2, 4, 8, 10)}
    assert not any(t.any() for t in net(**inputs))  # a fresh one adds nothing
    with pytest.raises(TypeError, match="Needs encoder_hidden_states, got None"):
        net(**{**inputs, "encoder_hidden_states": None})
