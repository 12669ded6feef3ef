"""Taps: the model is never touched, its perturbed self is the reference's, passes share a forward where they may."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.components.conditioning import SDConditioning
from sfumato.components.models.levels import level_size
from sfumato.components.models.unet_2d_condition import UNet2DConditionModel
from sfumato.components.taps.apply import apply_taps
from sfumato.components.taps.perturb import Blur, Drop, Identity, blur
from sfumato.components.taps.tap import Tap, Taps
from sfumato.components.types import Pass

from ..presets.support import Reference, counted, held
from .support import noise

CHANGES = (Identity(), Blur(), Blur(0.8), Drop(), Drop(attention=False), Drop(feed_forward=False), Drop(dropout=0.4))
STEPS = sf.schedulers.EulerDiscreteScheduler().steps(4)
MIDDLE = "mid_block.attentions.0.transformer_blocks"
TINY: dict[str, Any] = {
    "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "cross_attention_dim": 8,
    "attention_head_dim": 2, "sample_size": 8, "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
}  # fmt: skip


def taps(change: Identity | Blur | Drop, *layers: int | str, stack: str = "auto") -> Taps:
    return Taps((Tap(change, layers, stack),))


def unet_of(emoji: Graph) -> UNet2DConditionModel:
    return held(emoji, "unet")


def asked(model: UNet2DConditionModel, rows: int = 2, size: tuple[int, int] = (8, 8)) -> Tensor:
    with torch.no_grad():
        return model(noise(1, (rows, 8, *size)), 500, noise(2, (rows, 5, 128)))


# ---------------------------------------------------------------------------------------------- beside the reference
@pytest.mark.parametrize("stack", [MIDDLE, "up_blocks.0.attentions.1.transformer_blocks"])
def test_a_perturbed_u_net_is_the_references_under_its_hooks(
    emoji: Graph, emoji_reference: Reference, stack: str
) -> None:
    skip, smooth = (import_module(f"diffusers.hooks.{n}") for n in ("layer_skip", "smoothed_energy_guidance_utils"))
    theirs: Any = emoji_reference.pipe.unet

    def under(apply: Any, config: Any, *more: Any) -> Tensor:
        apply(theirs, config, *more, name="tap")
        try:
            with torch.no_grad():
                return theirs(noise(1, (2, 8, 8, 8)), 500, noise(2, (2, 5, 128))).sample
        finally:
            import_module("diffusers.hooks").HookRegistry.check_if_exists_or_initialize(theirs).remove_hook("tap")

    scores = skip.LayerSkipConfig([0], stack, skip_attention=False, skip_attention_scores=True, skip_ff=False)
    whole = skip.LayerSkipConfig([0], stack)
    blur = smooth.SmoothedEnergyGuidanceConfig([0], stack)
    # The reference's two kinds of blur are in each other's place: a small sigma gives the mean, a huge one the kernel.
    for expected, change in (
        (under(skip._apply_layer_skip_hook, scores), Identity()),
        (under(skip._apply_layer_skip_hook, whole), Drop()),
        (under(smooth._apply_smoothed_energy_guidance_hook, blur, 1.0), Blur()),
        (under(smooth._apply_smoothed_energy_guidance_hook, blur, 1e6), Blur(1e6)),
    ):
        ours = asked(apply_taps(unet_of(emoji), taps(change, 0, stack=stack), (8, 8)))
        assert (ours - expected).abs().max() < 1e-5
        assert (ours - asked(unet_of(emoji))).abs().max() > 1e-3


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, 50.0])
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_a_blur_is_the_published_one(diffusers: Any, sigma: float, side: int) -> None:
    module = import_module("diffusers.hooks.smoothed_energy_guidance_utils")
    q = noise(3, (2, 3, side * side, 4))
    count = math.ceil(6 * sigma) + 1 - math.ceil(6 * sigma) % 2
    flat = q.transpose(1, 2).flatten(2)
    expected = module._gaussian_blur_2d(flat.clone(), count, sigma, 0.0)
    assert (blur(q, sigma, (side, side)).transpose(1, 2).flatten(2) - expected).abs().max() < 1e-5


# ---------------------------------------------------------------------------------------------------------------- laws
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4), st.booleans())
def test_a_blur_knows_height_and_width_of_every_level(height: int, width: int, level: int, up: bool) -> None:
    sides = height, width
    for _ in range(level):
        sides = tuple(max(1, (side + up) // 2) for side in sides)
    found = level_size(sides[0] * sides[1], (height, width))
    assert found[0] * found[1] == sides[0] * sides[1]
    if up and height == width:
        assert found == sides


@given(st.floats(0.1, 20), st.integers(1, 12), st.integers(1, 12))
def test_a_blur_keeps_what_is_even(sigma: float, height: int, width: int) -> None:
    q = torch.ones(1, 2, height * width, 3) * torch.tensor([1.0, -2.0, 3.0])
    assert (blur(q, sigma, (height, width)) - q).abs().max() < 1e-5
    assert (blur(q, math.inf, (height, width)) - q).abs().max() < 1e-5


def test_a_wide_blur_along_one_side_leaves_the_other_alone() -> None:
    """The reference takes every picture for a square."""
    q = torch.arange(3.0).repeat_interleave(9).reshape(1, 1, 27, 1)  # 3 x 9: rows that are even inside
    assert (blur(q, 1.0, (3, 9)).reshape(3, 9).std(1)).max() < 1e-6


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size", [(8, 8), (8, 12), (5, 7)])
def test_a_view_never_touches_the_model(emoji: Graph, change: Any, size: tuple[int, int]) -> None:
    unet = unet_of(emoji)
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    modules, before = dict(unet.named_modules()), asked(unet, size=size)
    other = apply_taps(unet, taps(change), size)
    assert (asked(other, size=size) - before).abs().max() > 1e-4
    assert torch.equal(asked(unet, size=size), before)
    assert dict(unet.named_modules()) == modules
    assert all(torch.equal(value, weights[name]) for name, value in unet.state_dict().items())
    mine = {id(p) for p in unet.parameters()}
    assert all(id(p) in mine for p in other.parameters())


def test_dropout_of_nothing_is_the_model_and_of_all_is_skipping(emoji: Graph) -> None:
    unet = unet_of(emoji)
    assert torch.equal(asked(apply_taps(unet, taps(Drop(dropout=0.0)), (8, 8))), asked(unet))


def test_dropout_is_the_same_in_every_turn_and_row(emoji: Graph) -> None:
    weak = apply_taps(unet_of(emoji), taps(Drop(dropout=0.5)), (8, 8))
    assert torch.equal(asked(weak), asked(weak))
    x, words = noise(1, (1, 8, 8, 8)).expand(2, -1, -1, -1), noise(2, (1, 5, 128)).expand(2, -1, -1)
    with torch.no_grad():
        one, two = weak(x, 500, words)
    assert (one - two).abs().max() < 1e-5


def test_taps_join(emoji: Graph) -> None:
    unet = unet_of(emoji)
    both = Taps((Tap(Identity(), (0,)), Tap(Drop(), ("mid",))))
    step_by_step = apply_taps(apply_taps(unet, taps(Identity(), 0), (8, 8)), taps(Drop(), "mid"), (8, 8))
    assert torch.equal(asked(apply_taps(unet, both, (8, 8))), asked(step_by_step))


# -------------------------------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (taps(Drop()), taps(Drop(), "mid")),
        (taps(Drop(), 2), taps(Drop(), f"{MIDDLE}.0")),
        (taps(Drop(), 2), taps(Drop(), 0, stack=MIDDLE)),
        (taps(Drop(), "up.1"), taps(Drop(), 5, 6)),
        (taps(Drop(), "down"), taps(Drop(), 1, 0)),
    ],
)
def test_layers_are_named_by_place_or_path(emoji: Graph, one: Taps, other: Taps) -> None:
    unet = unet_of(emoji)
    assert torch.equal(asked(apply_taps(unet, one, (8, 8))), asked(apply_taps(unet, other, (8, 8))))


def test_without_attention_in_the_middle_the_deepest_layers_are_perturbed() -> None:
    with torch.random.fork_rng():
        unet = UNet2DConditionModel(**TINY, mid_block_type=None)
        assert unet.perturbable_layers().default == ["down_blocks.1.attentions.0.transformer_blocks.0"]
        plain = UNet2DConditionModel(
            **{**TINY, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
            mid_block_type=None,
        )
    with pytest.raises(sf.ConfigError, match="has no transformer blocks"):
        apply_taps(plain, taps(Identity()), (8, 8))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (taps(Identity(), 7), r"has no layer 7\. .*There are: 0 to 6, which are: down_blocks\.0"),
        (taps(Identity(), -1), r"has no layer -1"),
        (taps(Identity(), "middle"), r"has no layer 'middle'\. .*mid_block\.attentions\.0\.transformer_blocks\.0"),
        (taps(Drop(), 0, stack="x"), r"has no stack of layers 'x'\. There are: down_blocks\.0\.attentions\.0"),
        (taps(Drop(), 1, stack=MIDDLE), rf"has no layer 1 in '{MIDDLE}'\. .*0 to 0, which are: {MIDDLE}\.0"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_with_those_there_are(emoji: Graph, wrong: Taps, told: str) -> None:
    with pytest.raises(sf.ConfigError, match=told):
        apply_taps(unet_of(emoji), wrong, (8, 8))


def test_layers_that_only_look_at_the_prompt_cannot_be_made_to_look_at_themselves() -> None:
    with torch.random.fork_rng():
        unet = UNet2DConditionModel(**TINY, only_cross_attention=(False, True), mid_block_only_cross_attention=False)
    first = unet.perturbable_layers()
    assert set(first.with_self_attention) < set(first.blocks)
    other = next(path for path in first.blocks if path not in first.with_self_attention)
    with pytest.raises(sf.ConfigError, match=r"has no self-attention\. Name blocks that have it"):
        apply_taps(unet, taps(Identity(), other), (8, 8))


def test_a_model_that_does_not_know_its_layers_says_so() -> None:
    with pytest.raises(sf.ConfigError, match="Linear has no perturbable_layers"):
        apply_taps(torch.nn.Linear(1, 1), taps(Identity()), (8, 8))


# -------------------------------------------------------------------------------------------------- sharing a forward
def passes(count: int = 1) -> list[Pass]:
    words = SDConditioning(noise(3, (2, 5, 128)))
    x, step = noise(1, (2, 8, 8, 8)), STEPS[0]
    plain = [Pass(x, step, words), Pass(x, step, words, "negative")]
    perturbed = [Pass(x, step, words, "perturbed", taps=taps(Identity())) for _ in range(count)]
    return [perturbed[0], *plain, *perturbed[1:]]


@pytest.mark.parametrize(("batching", "rows"), [("together", [4, 4]), ("apart", [2, 2, 2, 2])])
def test_passes_of_equal_taps_share_a_forward(emoji: Graph, batching: Any, rows: list[int]) -> None:
    predict = PredictNoise(unet=unet_of(emoji), batching=batching)().predict
    with counted(emoji) as did, torch.no_grad():
        answers = predict(passes(2))
    assert did.rows == rows
    assert (answers[0] - answers[3]).abs().max() < 1e-5
    assert (answers[1] - answers[2]).abs().max() < 1e-5
    assert (answers[0] - answers[1]).abs().max() > 1e-3


def test_four_threads_with_taps_of_their_own_get_what_each_alone_gets(emoji: Graph) -> None:
    """Forward hooks on a shared model gave 145 wrong results of 300 here."""
    unet = unet_of(emoji)
    changes: Sequence[Any] = (None, *CHANGES)
    predict = PredictNoise(unet=unet)().predict

    def one(k: int) -> Tensor:
        change = changes[k % len(changes)]
        p = Pass(noise(1, (1, 8, 8, 8)), STEPS[0], SDConditioning(noise(3, (1, 5, 128))))
        with torch.no_grad():
            return predict([p if change is None else Pass(p.latents, p.step, p.conditioning, taps=taps(change))])[0]

    serial = [one(k) for k in range(len(changes))]
    with ThreadPoolExecutor(4) as pool:
        for k, made in enumerate(pool.map(one, range(48))):
            assert torch.equal(made, serial[k % len(changes)])
