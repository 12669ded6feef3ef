"""Rows, random numbers, schedules, and where a picture starts."""

from fractions import Fraction
from typing import Any, NamedTuple, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sfumato as sf
from sfumato.blocks.latents import flow
from sfumato.blocks.latents.parts import steps_before
from sfumato.blocks.latents.start import (
    CountRows,
    CutSchedule,
    DiscardNoise,
    DrawNoise,
    DrawNoiseLike,
    MakeSchedule,
    NoiseImage,
    NoiseImageFully,
    ScaleNoise,
    SeedRandom,
    SpreadSchedule,
)  # fmt: skip
from sfumato.components.random import Random
from sfumato.components.types import Conditioning, Rows

DDIM, EULER, LCM = sf.schedulers.DDIMScheduler(), sf.schedulers.EulerDiscreteScheduler(), sf.schedulers.LCMScheduler()


def words(rows: int) -> Conditioning:
    return Conditioning(torch.zeros(rows, 3, 4))


def generator(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


# --------------------------------------------------------------------------------------------------------------- random
def test_one_seed_draws_all_rows_at_once_and_many_draw_a_row_each() -> None:
    together, _ = Random.seeded([5]).draw(2, (3,))
    assert torch.equal(together, torch.randn((2, 3), generator=generator(5)))
    each, _ = Random.seeded([5, 6]).draw(2, (3,))
    assert torch.equal(each, torch.cat([torch.randn((1, 3), generator=generator(s)) for s in (5, 6)]))


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40))
def test_draws_go_on_where_the_last_one_ended(seeds: list[int], first: int, second: int) -> None:
    """As from generators that are kept."""
    random, kept = Random.seeded(seeds), [generator(s) for s in seeds]
    for size in (first, second):
        drawn, random = random.draw(len(seeds), (size,))
        assert torch.equal(drawn, torch.cat([torch.randn((1, size), generator=g) for g in kept]))


def test_drawing_changes_nothing() -> None:
    random = Random.seeded([1])
    assert torch.equal(random.draw(1, (4,))[0], random.draw(1, (4,))[0])


def test_other_rows_than_generators_are_refused() -> None:
    with pytest.raises(ValueError, match="Needs one seed for all images, or one for each of 3, got 2"):
        Random.seeded([1, 2]).draw(3, (4,))


def test_seeds_may_be_one_one_each_or_none() -> None:
    seeded = SeedRandom()
    assert len(seeded(Rows(2, 2), 7).random.states) == 1
    assert len(seeded(Rows(2, 2), [1, 2, 3, 4]).random.states) == 4
    fresh = [seeded(Rows(1, 1)).random.draw(1, (4,))[0] for _ in range(2)]
    assert not torch.equal(*fresh)
    with pytest.raises(ValueError, match="seed has 2 numbers for 4 pictures"):
        seeded(Rows(2, 2), [1, 2])


# ---------------------------------------------------------------------------------------------------------------- noise
def test_rows_are_prompts_times_images_of_each() -> None:
    assert CountRows()(words(3), 2).rows.total == 6


def test_noise_has_the_size_of_latents() -> None:
    draw = DrawNoise(channels=4, factor=8, height=24, width=40)
    assert draw(Rows(2, 3), Random.seeded([0])).latents.shape == (6, 4, 3, 5)
    like = DrawNoiseLike()(torch.zeros(2, 4, 5, 6), Random.seeded([0])).latents
    assert torch.equal(like, torch.randn((2, 4, 5, 6), generator=generator(0)))


@pytest.mark.parametrize(("height", "nearest"), [(3, 8), (70, 72), (67, 64)])
def test_sizes_between_are_refused_and_the_nearest_is_named(height: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=f"height={height} cannot be made.* The nearest is {nearest}"):
        DrawNoise(height=height)(Rows(1, 1), Random.seeded([0]))


class Vae(NamedTuple):
    samples: bool
    latent_channels: int = 4
    scale_factor: int = 8


@pytest.mark.parametrize(("images", "masks", "drawn"), [(1, 1, 1), (2, 1, 2), (1, 3, 3)])
def test_spending_draws_as_much_as_encoding_the_masked_images(images: int, masks: int, drawn: int) -> None:
    discard = DiscardNoise(vae=cast("Any", Vae(samples=True)))
    after = discard(torch.zeros(images, 3, 16, 16), torch.zeros(masks, 1, 16, 16), Random.seeded([0]))
    assert torch.equal(after.random.states[0], Random.seeded([0]).draw(drawn, (4, 2, 2))[1].states[0])
    each = discard(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16), Random.seeded([0, 1]))
    assert len(each.random.states) == 2
    none = DiscardNoise(vae=cast("Any", Vae(samples=False)))
    before = Random.seeded([0])
    assert none(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 16, 16), before).random is before


# ------------------------------------------------------------------------------------------------------------- schedule
def test_a_schedule_has_the_steps_asked_for_or_the_levels_given() -> None:
    assert len(MakeSchedule(scheduler=DDIM, num_inference_steps=7)().steps) == 7
    assert MakeSchedule(scheduler=EULER)([800, 300]).steps.timesteps == (800, 300)
    assert MakeSchedule(scheduler=EULER)(sigmas=[9.0, 3.0, 0.0]).steps.sigmas == (9.0, 3.0, 0.0)


@given(st.integers(1, 60), st.floats(0.01, 1))
def test_strength_keeps_that_share_of_the_last_steps(whole: int, strength: float) -> None:
    steps, kept = DDIM.steps(whole), int(whole * Fraction(str(strength)))
    cut = CutSchedule(strength=strength)
    if kept:
        left = cut(steps).steps
        assert (len(left), left.begin, left.end) == (kept, whole - kept, whole)
    else:
        with pytest.raises(ValueError, match="leaves none") as caught:
            cut(steps)
        enough = float(str(caught.value).partition("Give strength=")[2].split()[0])
        assert len(CutSchedule(strength=enough)(steps).steps) >= 1


def test_a_strength_is_the_decimal_that_was_typed() -> None:
    """In floats, 100 * 0.29 is below 29, and 50 - 50 * 0.58 above 21."""
    for whole in (50, 90, 100, 150):
        steps = DDIM.steps(whole)
        for percent in range(1, 101):
            kept, left_out = percent * whole // 100, whole * (100 - percent) // 100
            if kept:
                assert len(CutSchedule(strength=percent / 100)(steps).steps) == kept
            assert flow.CutSchedule(strength=percent / 100)(steps).steps.begin == left_out
            if percent < 100:
                assert steps_before(DDIM.steps(100), DDIM, percent / 100) == percent


def test_a_consistency_model_spreads_its_steps_over_the_strength() -> None:
    def timesteps(n: int, strength: float) -> tuple[float, ...]:
        return SpreadSchedule(scheduler=LCM, strength=strength)(LCM.steps(n)).steps.timesteps

    assert timesteps(4, 0.8) == (799, 599, 399, 199)
    assert timesteps(1, 0.8) == (799,)
    assert timesteps(4, 1.0) == LCM.steps(4).timesteps
    with pytest.raises(ValueError, match="of which 2 are left at strength"):
        timesteps(4, 0.05)
    passed = LCM.steps(2, timesteps=[900, 500])
    assert SpreadSchedule(scheduler=LCM, strength=0.5)(passed).steps == passed[1:]
    assert len(SpreadSchedule(scheduler=EULER, strength=0.5)(EULER.steps(8)).steps) == 4


def test_strength_1_is_the_whole_schedule() -> None:
    assert CutSchedule(strength=1.0)(DDIM.steps(5)).steps == DDIM.steps(5)


# ---------------------------------------------------------------------------------------------------------------- start
def test_pure_noise_is_brought_to_the_first_level() -> None:
    steps, noise = EULER.steps(4), torch.randn(2, 4, 3, 3)
    assert torch.equal(ScaleNoise()(noise, steps, words(2), Rows(2, 1)).latents, noise * steps.noise_scale)
    with pytest.raises(ValueError, match="latents has 2 rows for 3 pictures"):
        ScaleNoise()(noise, steps, words(1), Rows(3, 1))


def test_an_image_is_noised_to_where_the_steps_begin() -> None:
    steps, image, noise = DDIM.steps(10)[6:], torch.ones(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    alpha, sigma = steps[0].level
    started = NoiseImage(scheduler=DDIM)(image, noise, steps, words(1), Rows(1, 1))
    assert (started.latents - (alpha * image + sigma * noise)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="Got 1 image and 2 rows of noise for 1 picture"):
        NoiseImage(scheduler=DDIM)(image, torch.randn(2, 4, 3, 3), steps, words(1), Rows(1, 1))


def test_a_whole_schedule_starts_in_pure_noise_and_a_cut_one_in_the_image() -> None:
    image, noise = torch.ones(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    block = NoiseImageFully(scheduler=DDIM)
    assert torch.equal(block(image, noise, DDIM.steps(10), words(1), Rows(1, 1)).latents, noise)
    cut = block(image, noise, DDIM.steps(10)[6:], words(1), Rows(1, 1)).latents
    assert torch.equal(cut, NoiseImage(scheduler=DDIM)(image, noise, DDIM.steps(10)[6:], words(1), Rows(1, 1)).latents)
