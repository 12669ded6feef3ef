"""Each step cache in each family to which it applies: neutral settings, counted layers, and exact goings on."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import sfumato as sf
from sfumato import ConfigError
from sfumato.components.caches import StepCache
from sfumato.components.taps.apply import select_blocks
from sfumato.components.taps.tap import Tap
from sfumato.graph.stored.values import restore, store

from .support import CONFIGS, TRANSFORMERS, UNETS, Drive, asks, drive, model, noise, predict_of, schedule

C = sf.caches
CACHES: dict[str, tuple[StepCache, StepCache]] = {  # one that skips, and one with neutral settings
    "first_block": (C.FirstBlockCacheConfig(0.75), C.FirstBlockCacheConfig(0)),
    "teacache": (C.TeaCacheConfig(0.5), C.TeaCacheConfig(0)),
    "seacache": (C.SeaCacheConfig(2.0), C.SeaCacheConfig(0)),
    "taylorseer": (C.TaylorSeerCacheConfig(3, 2, max_order=2), C.TaylorSeerCacheConfig(1)),
    "magcache": (C.MagCacheConfig(0.2, mag_ratios=(1.0, 0.98, 1.01)), C.MagCacheConfig(0, mag_ratios=(1.0,))),
    "deepcache": (C.DeepCacheConfig(3, 1), C.DeepCacheConfig(1)),
    "pyramid_attention": (
        C.PyramidAttentionBroadcastConfig(2, 3, (-1, 1001), (-1, 1001)),
        C.PyramidAttentionBroadcastConfig(1, 1),
    ),
    "faster_cache": (
        C.FasterCacheConfig(2, (-1, 900), unconditional_batch_timestep_skip_range=(-1, 900)),
        C.FasterCacheConfig(1, unconditional_batch_skip_range=1),
    ),
}
PAIRS = [
    (name, family)
    for name in CACHES
    for family in CONFIGS
    if not (name == "deepcache" and family in TRANSFORMERS) and not (name == "teacache" and family in UNETS)
    if family != "sdxl" or name in ("first_block", "deepcache", "pyramid_attention")
]
PLAIN: dict[str, Drive] = {}


def plain(family: str) -> Drive:
    if family not in PLAIN:
        PLAIN[family] = drive(family, C.FirstBlockCacheConfig(0))
    return PLAIN[family]


def flops(family: str, cache: StepCache) -> int:
    with FlopCounterMode(display=False) as counter:
        drive(family, cache)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_plain_run_is_the_denoiser_in_each_step(family: str) -> None:
    found, ask, predict = plain(family), asks(family), predict_of(family)
    x = noise(5, 1, 4, 8, 8)
    for step, made in zip(schedule(family, 8), found.predictions, strict=True):
        expected = predict(ask(x, step))
        assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
        x = x + 0.05 * made[-1]


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_neutral_settings_are_the_plain_run_bit_for_bit(name: str, family: str) -> None:
    neutral = CACHES[name][1]
    assert neutral.is_neutral
    assert drive(family, neutral).equals(plain(family))


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_layers_are_skipped_and_counted(name: str, family: str) -> None:
    found = drive(family, CACHES[name][0])
    assert found.skipped.layers and found.skipped.steps and 0 < found.skipped.fraction < 1
    assert not found.equals(plain(family))
    assert torch.equal(found.predictions[0][1], plain(family).predictions[0][1])  # nothing is known in the first step


@pytest.mark.parametrize("name", ["deepcache", "faster_cache"])
def test_operations_of_a_unet_fall(name: str) -> None:
    assert flops("sd", CACHES[name][0]) < 0.97 * flops("sd", CACHES[name][1])


@pytest.mark.parametrize("family", ["flux", "pixart"])
def test_the_operations_of_the_blocks_fall_by_the_claimed_fraction(family: str) -> None:
    cache = CACHES["taylorseer"][0]
    spent, whole = flops(family, cache), flops(family, CACHES["taylorseer"][1])
    blocks = whole - flops_without_blocks(family)
    assert whole - spent == pytest.approx(blocks * drive(family, cache).skipped.fraction)


def flops_without_blocks(family: str) -> int:
    """The operations of a run in which all steps skip all blocks."""
    cache = C.TaylorSeerCacheConfig(2, 0)
    found = drive(family, cache, steps=3)
    assert found.skipped.steps == (2,)
    with FlopCounterMode(display=False) as counter:
        drive(family, cache, steps=3, first=2, kept=found.memories[1])
    return counter.get_total_flops() * 8


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_a_run_that_is_saved_in_the_middle_goes_on_exactly(name: str, family: str) -> None:
    cache, first = CACHES[name][0], 3
    whole = drive(family, cache, steps=6)
    saved = restore(store(whole.memories[first - 1]), ("sfumato",))
    rest = drive(family, cache, steps=6, first=first, start=whole.latents[first], kept=saved)
    assert rest.equals(Drive(whole.predictions[first:]))
    assert rest.skipped.passes == whole.skipped.passes[2 * first :]


@pytest.mark.parametrize("name", [name for name in CACHES if name != "faster_cache"])
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_passes_in_one_forward_are_as_apart(name: str, family: str) -> None:
    if (name, family) not in PAIRS:
        return
    cache = CACHES[name][0]
    ask = asks(family, ("negative", "positive", "perturbed"))
    together = drive(family, cache, ask=ask)
    apart = drive(family, cache, ask=ask, predict=predict_of(family, batching="apart"))
    assert together.skipped == apart.skipped
    for a, b in zip(together.predictions, apart.predictions, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    alone = drive(family, cache, ask=lambda x, step: ask(x, step)[2:], start=together.latents[0])
    torch.testing.assert_close(alone.predictions[0][0], together.predictions[0][2], atol=1e-4, rtol=1e-4)


def test_the_row_that_changed_most_decides_and_keeps_its_own_entries() -> None:
    cache, still = C.FirstBlockCacheConfig(0.05), noise(5, 1, 4, 8, 8)
    ask = asks("flux", ("positive",), rows=2)

    def moving(x: Any, step: Any) -> Any:  # the first row stays, the second is new in each step
        return ask(torch.cat([still, noise(step.index, 1, 4, 8, 8)]), step)

    assert not drive("flux", cache, ask=moving, rows=2).skipped.steps


def test_a_pass_that_was_away_begins_anew() -> None:
    cache, ask = C.TaylorSeerCacheConfig(4, 1), asks("flux")

    def without(x: Any, step: Any) -> Any:
        return [p for p in ask(x, step) if not (p.role == "negative" and step.index == 3)]

    skipped = drive("flux", cache, ask=without).skipped
    negative = [p.step for p in skipped.passes if p.role == "negative" and p.skipped]
    positive = [p.step for p in skipped.passes if p.role == "positive" and p.skipped]
    assert (negative, positive) == ([1, 5, 7], [1, 3, 4, 5, 7])


def test_the_error_is_estimated_and_the_result_stays() -> None:
    cache = C.TaylorSeerCacheConfig(3, 2)
    plain, found = drive("flux", cache), drive("flux", cache, estimate_error=True)
    assert found.equals(plain)
    assert {p.error for p in found.skipped.passes if not p.skipped} == {0.0}
    assert found.skipped.error and 0 < found.skipped.error < 1
    assert plain.skipped.error is None
    assert str(plain.skipped) == "skipped 40 of 80 blocks in 4 of 8 steps"


def test_magcache_measures_its_ratios() -> None:
    measured = drive("flux", C.MagCacheConfig(calibrate=True))
    assert measured.equals(plain("flux")) and measured.skipped.layers == 0
    ratios = measured.skipped.mag_ratios
    assert len(ratios) == 8 and ratios[0] == 1.0
    assert drive("flux", C.MagCacheConfig(1.0, mag_ratios=ratios)).skipped.steps == (2, 3, 4, 6, 7)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: C.FirstBlockCacheConfig(-1), "FirstBlockCacheConfig.threshold needs a number from 0 on, got -1.0."),
        (lambda: C.DeepCacheConfig(0), "DeepCacheConfig.cache_interval needs a number from 1 on, got 0."),
        (lambda: C.SeaCacheConfig(power_exp=0), "SeaCacheConfig.power_exp needs a number above 0, got 0.0."),
        (lambda: C.TeaCacheConfig(coefficients=()), "TeaCacheConfig.coefficients is empty."),
        (lambda: C.MagCacheConfig(), "MagCacheConfig needs mag_ratios, measured for a model."),
    ],
)
def test_unfit_settings_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value).startswith(text)


@pytest.mark.parametrize(
    ("cache", "family", "text"),
    [
        (
            C.DeepCacheConfig(),
            "flux",
            "DeepCacheConfig needs a U-Net, and X has no skips. Use first_block or taylorseer.",
        ),
        (C.DeepCacheConfig(2, 3), "sd", "DeepCacheConfig needs 3 shallow layers, and X has at most 2."),
        (
            C.TeaCacheConfig(),
            "sd",
            "TeaCacheConfig compares modulated inputs, and X has none. Use first_block or deepcache.",
        ),
    ],
)
def test_methods_that_do_not_apply_are_refused(cache: StepCache, family: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        select_blocks(Tap(cache), model(family).perturbable_layers(), "X")
    assert str(error.value) == text
