"""Guiders: beside the reference's guider on the same predictions, and by the laws they obey."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sfumato as sf
from sfumato import Graph
from sfumato.blocks.denoise.unet import PredictNoise
from sfumato.blocks.guiders.cfg import ClassifierFreeGuidance
from sfumato.components.schedulers.schedule import Schedule
from sfumato.components.types import Conditioning, Latents, Pass

from .support import Reference, counted, held, run

STEPS = sf.schedulers.EulerDiscreteScheduler().steps(10)
SHAPE = (2, 4, 3, 3)
Same = Callable[..., object]


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


class Denoiser:
    """Answers each role with its own prediction, and remembers what it was asked."""

    def __init__(self, **answers: Tensor) -> None:
        self.answers, self.asked = answers, list[list[str]]()

    def __call__(self, passes: Sequence[Pass]) -> Sequence[Tensor]:
        self.asked.append([p.role for p in passes])
        return [self.answers[p.role] for p in passes]


def two() -> Denoiser:
    return Denoiser(positive=noise(1), negative=noise(2))


def words(seed: int) -> Conditioning:
    return Conditioning(noise(seed, 2, 5, 8))


def guide(
    guider: Callable[..., Any], denoiser: Callable[..., Any], turn: int = 0, latents: Latents | None = None
) -> Tensor:
    latents = noise(0) if latents is None else latents
    return guider(denoiser, latents, STEPS[turn], words(3), words(4)).prediction


# ------------------------------------------------------------------------------------------------- beside the reference
@pytest.mark.parametrize(  # not (0.0, False), which is no guidance here: tests/guiders/test_reference.py
    ("scale", "original"),
    [(0.5, False), (1.0, False), (1.5, False), (7.5, False), (0.0, True), (0.5, True), (1.0, True), (7.5, True)],
)
@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(("start", "stop", "enabled"), [(0.0, 1.0, True), (0.2, 0.65, True), (0.0, 1.0, False)])
def test_classifier_free_guidance_is_that_of_the_reference_in_every_turn(
    diffusers: Any, scale: float, original: bool, rescale: float, start: float, stop: float, enabled: bool
) -> None:
    settings: dict[str, Any] = {
        "guidance_scale": scale, "guidance_rescale": rescale, "use_original_formulation": original,
        "start": start, "stop": stop, "enabled": enabled,
    }  # fmt: skip
    theirs = diffusers.ClassifierFreeGuidance(**settings)
    for turn in range(len(STEPS)):
        theirs.set_state(step=turn, num_inference_steps=len(STEPS), timestep=torch.tensor(0))
        asked = two()
        ours = guide(ClassifierFreeGuidance(**settings), asked, turn)
        answers = asked.answers
        both = theirs.num_conditions == 2
        expected = theirs.forward(answers["positive"], answers["negative"] if both else None)
        assert (ours - expected.pred).abs().max() < 1e-5
        assert sum(map(len, asked.asked)) == theirs.num_conditions


@pytest.mark.parametrize("scale", [1.0, 2.0, 9.0])
def test_guidance_is_that_of_the_classic_pipeline(
    emoji: Graph, emoji_reference: Reference, same: Same, scale: float
) -> None:
    values: dict[str, Any] = {"prompt": "a fish", "negative_prompt": "blue", "num_inference_steps": 3, "seed": 1}
    ours = run(emoji, guider=sf.guiders.ClassifierFreeGuidance(guidance_scale=scale), **values)
    same(ours, emoji_reference(guidance_scale=scale, **values))


# ----------------------------------------------------------------------------------------------------------------- laws
@given(st.integers(0, 99), st.floats(0, 1), st.integers(0, 9))
def test_scale_1_is_the_positive_prediction_and_asks_one_pass(seed: int, rescale: float, turn: int) -> None:
    asked = Denoiser(positive=noise(seed), negative=noise(seed + 1))
    guider = ClassifierFreeGuidance(guidance_scale=1.0, guidance_rescale=rescale)
    assert torch.equal(guide(guider, asked, turn), noise(seed))
    assert asked.asked == [["positive"]]


@given(st.floats(-5, 20), st.floats(0, 1), st.booleans())
def test_equal_prompts_are_the_identity(scale: float, rescale: float, original: bool) -> None:
    asked = Denoiser(positive=noise(1), negative=noise(1))
    guider = ClassifierFreeGuidance(guidance_scale=scale, guidance_rescale=rescale, use_original_formulation=original)
    assert (guide(guider, asked) - noise(1)).abs().max() < 1e-5


@given(st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0, 1))  # not at 0, which is no guidance
def test_guidance_is_linear_in_the_scale(one: float, other: float, part: float) -> None:
    def at(scale: float) -> Tensor:
        return guide(ClassifierFreeGuidance(guidance_scale=scale), two())

    between = part * one + (1 - part) * other
    assert (at(between) - (part * at(one) + (1 - part) * at(other))).abs().max() < 1e-4


@given(st.floats(0.1, 20))
def test_rescaling_in_full_gives_each_row_the_spread_of_the_positive_prediction(scale: float) -> None:
    guided = guide(ClassifierFreeGuidance(guidance_scale=scale, guidance_rescale=1.0), two())
    assert (guided.std((1, 2, 3)) - noise(1).std((1, 2, 3))).abs().max() < 1e-5


@given(st.floats(-3, 10).filter(lambda scale: scale != -1))  # for the other, 0 is no guidance
def test_the_original_formulation_counts_the_scale_from_0(scale: float) -> None:
    one = guide(ClassifierFreeGuidance(guidance_scale=scale, use_original_formulation=True), two())
    other = guide(ClassifierFreeGuidance(guidance_scale=scale + 1), two())
    assert (one - other).abs().max() < 1e-5


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted))
def test_guidance_is_on_from_start_up_to_but_not_at_stop(interval: list[float]) -> None:
    start, stop = interval
    guider = ClassifierFreeGuidance(start=start, stop=stop)
    on: list[int] = []
    for turn in range(10):
        asked = two()
        guide(guider, asked, turn)
        on += [turn] * (len(asked.asked[0]) == 2)
    assert on == [turn for turn in range(10) if int(start * 10) <= turn < int(stop * 10)]


def test_an_interval_counts_whole_steps_of_the_whole_schedule() -> None:
    """A solver of second order takes two turns a step; diffusers' window is counted in turns there, and ends early.

    A run that begins in the middle (strength) sees the window that the whole run would.
    """
    places = (0, 0, 1, 1, 2, 2, 3)
    heun = Schedule(sigmas=tuple(range(7, -1, -1)), timesteps=(9, 8, 7, 6, 5, 4, 3), places=places)
    guider = ClassifierFreeGuidance(stop=0.5)
    on: list[int] = []
    for step in heun:
        asked = two()
        guider(asked, noise(0), step, words(3), words(4))
        on += [step.index] * (len(asked.asked[0]) == 2)
    assert on == [0, 1, 2, 3]
    asked = two()
    guider(asked, noise(0), STEPS[6:][0], words(3), words(4))
    assert asked.asked == [["positive"]]


def test_guidance_is_off_where_it_is_not_enabled() -> None:
    asked = two()
    assert torch.equal(guide(ClassifierFreeGuidance(enabled=False), asked), noise(1))
    assert asked.asked == [["positive"]]


def test_scales_outside_their_range_are_refused() -> None:
    with pytest.raises(sf.ConfigError, match=r"ClassifierFreeGuidance.start .*got 1.5"):
        sf.guiders.ClassifierFreeGuidance.from_config({"start": 1.5})


# -------------------------------------------------------------------------------------------------------- in a pipeline
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_passes_together_or_apart_give_the_same_picture(emoji: Graph, rescale: float) -> None:
    apart = emoji.replace("denoise.predict", PredictNoise(batching="apart"))
    values: dict[str, Any] = {"prompt": ["a fish", "a cat"], "seed": 1, "num_inference_steps": 3}
    with counted(emoji) as did:
        one = run(emoji, guidance_rescale=rescale, **values)
    assert did.rows == [4] * 3
    with counted(apart) as did:
        other = run(apart, guidance_rescale=rescale, **values)
    assert did.rows == [2] * 6
    assert (one.latents - other.latents).abs().max() < 1e-4


def test_a_second_call_with_a_guidance_interval_is_as_the_first(emoji: Graph) -> None:
    """diffusers' modular pipeline crashes there: its guider keeps the state of the last run."""
    guider = sf.guiders.ClassifierFreeGuidance(stop=0.6)
    values: dict[str, Any] = {"prompt": "a fish", "seed": 1, "num_inference_steps": 5, "guider": guider}
    with counted(emoji) as did:
        one, two = run(emoji, **values), run(emoji, **values)
    assert torch.equal(one.latents, two.latents)
    assert did.rows == [2, 2, 2, 1, 1] * 2


def test_no_guidance_is_scale_1_and_never_encodes_the_negative_prompt(emoji: Graph) -> None:
    values: dict[str, Any] = {"prompt": "a fish", "seed": 1, "num_inference_steps": 3}
    with counted(emoji) as did:
        plain = run(emoji, guider=sf.guiders.NoGuidance(), **values)
    assert (did.text_encoder, did.unet, did.rows) == (1, 3, [1, 1, 1])
    with counted(emoji) as did:
        one = run(emoji, guidance_scale=1.0, **values)
    assert (did.text_encoder, did.unet) == (1, 3)
    assert torch.equal(plain.latents, one.latents)


def test_a_guider_of_ones_own_is_written_once_and_works_in_every_task(emoji: Graph) -> None:
    from .custom import PositiveOnly

    image = run(emoji, prompt="a fish", seed=1, num_inference_steps=2, guider=PositiveOnly())
    expected = run(emoji, prompt="a fish", seed=1, num_inference_steps=2, guider="none")
    assert torch.equal(image.latents, expected.latents)


def test_guiders_are_values(emoji: Graph) -> None:
    assert sf.guiders.ClassifierFreeGuidance() == sf.guiders.ClassifierFreeGuidance()
    assert sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0) != sf.guiders.ClassifierFreeGuidance()
    assert held(emoji, "unet") is held(emoji, "unet")


def test_a_guider_reads_and_writes_its_published_config(diffusers: Any) -> None:
    theirs = diffusers.ClassifierFreeGuidance(guidance_scale=3.0, stop=0.5)
    ours = sf.guiders.ClassifierFreeGuidance.from_config(dict(theirs.config))
    assert (ours.guidance_scale, ours.stop) == (3.0, 0.5)
    back = diffusers.ClassifierFreeGuidance.from_config(ours.to_config())
    keys = ("guidance_scale", "guidance_rescale", "use_original_formulation", "start", "stop", "enabled")
    assert [back.config[key] for key in keys] == [theirs.config[key] for key in keys]
