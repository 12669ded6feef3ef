"""Where the reference is wrong (DIFFUSERS.md 5.3), what ours do, the count of passes; and the laws guiders obey."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sfumato as sf
from sfumato import Block
from sfumato.blocks.guiders.intervals import within_perturbed
from sfumato.components.conditioning import Conditioning
from sfumato.components.schedulers.schedule import Schedule

from .support import ALL, PERTURBED, PLAIN, SHAPE, TWO_TURNS, Denoiser, answers, noise, their_turn, theirs, through

WIDE: dict[str, dict[str, Any]] = {
    name: {f"{head}_start": 0.0, f"{head}_stop": 1.0} for name, head in PERTURBED.items()
} | {"ClassifierFreeZeroStarGuidance": {"zero_init_steps": 0}}
"""Every term on in every step."""
PASSES = {name: 3 if name in PERTURBED else 2 for name in ALL}


def made(name: str, **config: Any) -> Block:
    return getattr(sf.guiders, name).from_config({**WIDE.get(name, {}), **config})


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def positive() -> list[Tensor]:
    return [answers(k)["positive"] for k in range(10)]


def neutral(name: str) -> dict[str, Any]:
    """The config at which a guider is the positive prediction."""
    if name == "FrequencyDecoupledGuidance":
        return {"guidance_scales": [1.0, 1.0]}
    more = {f"{PERTURBED[name]}_scale": 0.0} if name in PERTURBED else {}
    more |= {"adaptive_projected_guidance_scale": 1.0} if name == "AdaptiveProjectedMixGuidance" else {}
    return {"guidance_scale": 1.0, **more}


# ------------------------------------------------------------------------------------- 5.3.1 state of the call before
@pytest.mark.parametrize("name", ALL)
def test_a_second_call_with_an_interval_is_as_the_first(name: str) -> None:
    guider = made(name, stop=0.6)
    first, second = Denoiser(), Denoiser()
    assert apart(through(guider, denoiser=first), through(guider, denoiser=second)) == 0
    assert first.counts == second.counts == [PASSES[name]] * 6 + [PASSES[name] - 1] * 4


# ------------------------------------------------------------------------------------------ 5.3.2 solvers of two turns
@pytest.mark.parametrize("name", ALL)
def test_a_solver_of_two_turns_a_step_is_guided_to_its_end(name: str) -> None:
    """10 steps are 19 turns: 38 passes with two each. The reference stops after 10 turns, with 29 passes."""
    denoiser = Denoiser()
    through(made(name), TWO_TURNS, denoiser)
    assert denoiser.counts == [PASSES[name]] * 19


@pytest.mark.parametrize("name", ALL)
def test_an_interval_counts_whole_steps(name: str) -> None:
    denoiser = Denoiser()
    through(made(name, start=0.2, stop=0.5), TWO_TURNS, denoiser)
    on = [k for k, count in enumerate(denoiser.counts) if count == PASSES[name]]
    assert on == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("name", "head"), PERTURBED.items())
def test_an_interval_of_perturbation_counts_whole_steps(name: str, head: str) -> None:
    denoiser = Denoiser()
    through(made(name, **{f"{head}_start": 0.1, f"{head}_stop": 0.3}), TWO_TURNS, denoiser)
    assert [k for k, roles in enumerate(denoiser.roles) if "perturbed" in roles] == [2, 3, 4, 5]


def test_the_mix_and_the_zeros_count_whole_steps() -> None:
    zeros = through(sf.guiders.ClassifierFreeZeroStarGuidance(zero_init_steps=2), TWO_TURNS)
    assert [k for k, prediction in enumerate(zeros) if not prediction.any()] == [0, 1, 2, 3]
    mix = sf.guiders.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=3)
    plain = through(sf.guiders.ClassifierFreeGuidance(guidance_scale=3.5), TWO_TURNS)
    same = [k for k, (a, b) in enumerate(zip(through(mix, TWO_TURNS), plain, strict=True)) if torch.allclose(a, b)]
    assert same == list(range(8))


# --------------------------------------------------------------------------------------- 5.3.4 perturbation at scale 1
@pytest.mark.parametrize(("name", "head"), PERTURBED.items())
def test_at_scale_1_the_perturbed_pass_has_the_positive_prompt(diffusers: Any, name: str, head: str) -> None:
    """The reference asks the negative prompt there, and perturbs nothing."""
    denoiser = Denoiser()
    predictions = through(made(name, guidance_scale=1.0), denoiser=denoiser)
    assert denoiser.roles == [["positive", "perturbed"]] * 10
    for asked in denoiser.asked:
        assert asked[0].conditioning is asked[1].conditioning
        assert asked[1].taps and not asked[0].taps
    said = answers(4)
    assert (predictions[4] - (said["positive"] + 2.8 * (said["positive"] - said["perturbed"]))).abs().max() < 1e-5
    reference = theirs(diffusers, name, guidance_scale=1.0, **{f"{head}_layers": [0], f"{head}_stop": 1.0})
    reference.set_state(step=4, num_inference_steps=10, timestep=torch.tensor(0))
    given_ = reference.prepare_inputs({"x": (noise(1), noise(2))})
    assert [bool(torch.equal(batch.x, noise(2))) for batch in given_] == [False, True]


@pytest.mark.parametrize(("name", "head"), PERTURBED.items())
def test_perturbation_from_0_is_from_the_first_step(name: str, head: str) -> None:
    """The reference always leaves out the first step. The published start of 0.01 means to."""
    for start, first in ((0.0, 0), (0.01, 1), (0.2, 2), (0.21, 3)):
        denoiser = Denoiser()
        through(made(name, **{f"{head}_start": start, f"{head}_stop": 0.5}), denoiser=denoiser)
        assert [k for k, roles in enumerate(denoiser.roles) if "perturbed" in roles] == list(range(first, 5))


@pytest.mark.parametrize(("count", "on"), [(1, [0]), (2, [1]), (4, [1]), (5, [1]), (10, [1]), (20, [1, 2, 3])])
def test_the_published_interval_is_at_least_one_step(count: int, on: list[int]) -> None:
    steps = Schedule(sigmas=tuple(range(count, -1, -1)), timesteps=tuple(range(count, 0, -1)))
    assert [step.index for step in steps if within_perturbed(step, 0.01, 0.2)] == on
    assert not any(within_perturbed(step, 0.5, 0.5) for step in steps)


# ------------------------------------------------------------------------------------------------------ what is spared
@pytest.mark.parametrize("name", ALL)
def test_a_step_without_guidance_asks_one_pass(name: str) -> None:
    for config in (neutral(name), {"enabled": False}):
        denoiser = Denoiser()
        assert apart(through(made(name, **config), denoiser=denoiser), positive()) == 0
        assert denoiser.roles == [["positive"]] * 10


def test_a_step_of_zeros_asks_nothing() -> None:
    """The reference asks two passes for them, and with rescaling makes them nan."""
    denoiser = Denoiser()
    predictions = through(sf.guiders.ClassifierFreeZeroStarGuidance(guidance_rescale=0.5), denoiser=denoiser)
    assert sum(denoiser.counts) == 18 and not predictions[0].any()
    assert all(bool(prediction.isfinite().all()) for prediction in predictions)


@pytest.mark.parametrize("name", ALL)
def test_all_passes_are_asked_at_once_with_their_roles(name: str) -> None:
    """So that the denoiser may run them together, and a control net in guess mode knows which is which (5.3.5)."""
    denoiser = Denoiser()
    through(made(name), denoiser=denoiser)
    assert len(denoiser.asked) == 10
    second = "perturbed" if name == "AutoGuidance" else "negative"
    assert all(set(roles) == {"positive", second, *roles[2:]} for roles in denoiser.roles)


def test_auto_guidance_asks_its_weaker_self_the_same_prompt() -> None:
    """As in the paper. The reference asks it the negative prompt; ours does not even encode that."""
    denoiser = Denoiser()
    through(sf.guiders.AutoGuidance(), denoiser=denoiser)
    assert all(weak.conditioning is strong.conditioning for weak, strong in denoiser.asked)
    assert "negative" not in sf.guiders.AutoGuidance().signature.inputs


# ---------------------------------------------------------------------------------------------------------------- laws
SCALES = st.floats(-3, 12)


OWN: dict[str, st.SearchStrategy[Any]] = {
    "adaptive_projected_guidance_momentum": st.sampled_from([None, -0.75, 0.5]),
    "adaptive_projected_guidance_rescale": st.sampled_from([0.0, 2.5, 15.0]),
    "adaptive_projected_guidance_start_step": st.integers(0, 9),
    "adaptive_projected_guidance_scale": SCALES,
    "eta": st.floats(0, 1),
    "parallel_weights": st.sampled_from([None, 0.0, 0.5, (0.3, 1.0)]),
    "guidance_rescale_space": st.sampled_from(["data", "freq"]),
    "zero_init_steps": st.integers(0, 3),
    "alpha": st.floats(0, 9),
    **{f"{head}_scale": SCALES for head in PERTURBED.values()},
    **{f"{head}_stop": st.sampled_from([0.4, 1.0]) for head in PERTURBED.values()},
    "guidance_scale": SCALES,
    "guidance_scales": st.tuples(SCALES, SCALES),
    "guidance_rescale": st.floats(0, 1),
    "start": st.sampled_from([0.0, 0.3]),
    "stop": st.sampled_from([0.6, 1.0]),
    "use_original_formulation": st.booleans(),
}
"""A value of each field."""
NEUTRAL = [(name, field) for name in ALL for field in made(name).config() if field.endswith(("_scale", "_scales"))]
"""Each guider with each of its scales."""


@given(st.sampled_from(NEUTRAL), st.data())
@settings(max_examples=150)
def test_a_guider_is_continuous_at_the_neutral_value_of_each_scale(case: tuple[str, str], data: st.DataObject) -> None:
    """With momentum, rescaling and intervals, alone and in a schedule (Sadat et al. 2024, algorithm 1: c + (w-1) d)."""
    name, field = case
    config = {key: data.draw(OWN[key], label=key) for key in made(name).config() if key in OWN and key != field}
    at = 1.0
    if config["use_original_formulation"] or field in {f"{head}_scale" for head in PERTURBED.values()}:
        at = 0.0
    scheduled, coarse = data.draw(st.booleans(), label="in a schedule"), data.draw(SCALES, label="of the second octave")

    def predictions(scale: float) -> list[Tensor]:
        value = (scale, coarse) if field == "guidance_scales" else scale
        guider = made(name, **{**config, field: value})
        parts = ((0.0, guider), (0.5, sf.guiders.ClassifierFreeGuidance(guidance_scale=3.0)))
        return through(sf.guiders.GuidanceSchedule(parts=parts) if scheduled else guider)

    for near in (at - 1e-4, at + 1e-4):
        assert apart(predictions(at), predictions(near)) < 1e-2


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("momentum", [None, -0.5])
def test_projected_guidance_is_algorithm_1_of_the_paper(momentum: float | None, original: bool) -> None:
    """Sadat et al. 2024, worked by hand: c + (w - 1) d'."""
    longest, eta, scale = 4.0, 0.3, 7.0
    guider = sf.guiders.AdaptiveProjectedGuidance(
        guidance_scale=scale, adaptive_projected_guidance_momentum=momentum, eta=eta,
        adaptive_projected_guidance_rescale=longest, use_original_formulation=original,
    )  # fmt: skip
    average = torch.zeros(SHAPE)
    for turn, prediction in enumerate(through(guider)):
        c, u = answers(turn)["positive"], answers(turn)["negative"]
        average = c - u + (momentum or 0.0) * average
        length, unit = (t.flatten(1).norm(dim=1)[:, None, None, None] for t in (average, c))
        short = average * (longest / length).clamp(max=1.0)
        along = (short * c / unit).sum((1, 2, 3), keepdim=True) * c / unit
        expected = c + (scale if original else scale - 1) * (short - along + eta * along)
        assert (prediction - expected).abs().max() < 1e-4


def test_the_mix_is_projected_after_its_first_steps_whatever_its_first_scale() -> None:
    """Its second scale counts where the first one is neutral, and the other way round."""
    late = through(sf.guiders.AdaptiveProjectedMixGuidance(guidance_scale=1.0))
    assert apart(late[:6], positive()[:6]) < 1e-5
    assert apart(late[6:], through(sf.guiders.AdaptiveProjectedMixGuidance())[6:]) == 0
    early = through(sf.guiders.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_scale=1.0))
    assert apart(early[6:], positive()[6:]) == 0
    assert sf.guiders.AdaptiveProjectedMixGuidance(guidance_scale=1.0).simplified() is None


@given(st.sampled_from(ALL), SCALES, st.floats(0, 1), st.booleans())
@settings(max_examples=60)
def test_equal_predictions_are_the_identity(name: str, scale: float, rescale: float, original: bool) -> None:
    own = {"guidance_scales": [scale, 2.0]} if name == "FrequencyDecoupledGuidance" else {"guidance_scale": scale}
    guider = made(name, **own, guidance_rescale=rescale, use_original_formulation=original)
    said = {role: noise(7) for role in ("positive", "negative", "perturbed")}
    assert apart(through(guider, denoiser=Denoiser(said)), [noise(7)] * 10) < 1e-4


@given(st.sampled_from([n for n in ALL if n != "FrequencyDecoupledGuidance"]), SCALES, SCALES)
@settings(max_examples=60)
def test_a_scale_for_each_picture_is_as_each_alone(name: str, one: float, other: float) -> None:
    both = through(made(name, guidance_scale=[one, other]))
    for row, scale in enumerate((one, other)):
        alone = through(made(name, guidance_scale=scale))
        assert apart([p[row] for p in both], [p[row] for p in alone]) < 1e-4


@given(st.sampled_from(ALL), st.integers(1, 3))
@settings(max_examples=30)
def test_pictures_do_not_know_of_each_other(name: str, rows: int) -> None:
    shape = (rows, *SHAPE[1:])
    whole = through(made(name), shape=shape)
    said = [{role: value[:1] for role, value in answers(k, shape).items()} for k in range(10)]
    memory: dict[str, Any] = {}
    for step, expected in zip(PLAIN, whole, strict=True):
        guider = made(name)
        values: dict[str, Any] = {"predict": Denoiser(said[step.index]), "latents": noise(0, shape)[:1], "step": step}
        values |= dict.fromkeys(("positive", "negative"), Conditioning(torch.zeros(1, 1, 1)))
        out = guider(**{k: v for k, v in values.items() if k in guider.signature.inputs}, **memory)
        memory = {k: getattr(out, k) for k in guider.signature.memory}
        assert (out.prediction - expected[:1]).abs().max() < 1e-5


@given(st.floats(0.5, 12))
@settings(max_examples=20)
def test_special_cases_are_plain_guidance(scale: float) -> None:
    plain = through(sf.guiders.ClassifierFreeGuidance(guidance_scale=scale))
    for name, config in (
        ("AdaptiveProjectedGuidance", {"adaptive_projected_guidance_rescale": 0.0}),
        ("AdaptiveProjectedMixGuidance", {"adaptive_projected_guidance_start_step": 99}),
        ("MagnitudeAwareGuidance", {"alpha": 0.0}),
        ("PerturbedAttentionGuidance", {"perturbed_guidance_scale": 0.0}),
    ):
        assert apart(through(made(name, guidance_scale=scale, **config)), plain) < 1e-4
    both = made("FrequencyDecoupledGuidance", guidance_scales=[scale, scale])
    assert apart(through(both), plain) < 1e-4


def test_projected_guidance_without_its_parallel_part_is_orthogonal_to_the_positive_prediction() -> None:
    predictions = through(sf.guiders.AdaptiveProjectedGuidance(eta=0.0, guidance_scale=4.0))
    for turn, prediction in enumerate(predictions):
        said = answers(turn)
        added = prediction - said["positive"]
        assert ((added * said["positive"]).sum((1, 2, 3)) / said["positive"].square().sum((1, 2, 3))).abs().max() < 1e-5


def test_scales_that_are_no_multiple_of_the_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="There are 3 guidance scales for 2 pictures"):
        through(made("ClassifierFreeGuidance", guidance_scale=[1.0, 2.0, 3.0]))


def test_a_scale_serves_as_many_pictures_in_a_row_as_there_are_for_each() -> None:
    shape = (4, *SHAPE[1:])
    two = through(made("ClassifierFreeGuidance", guidance_scale=[3.0, 5.0]), shape=shape)
    four = through(made("ClassifierFreeGuidance", guidance_scale=[3.0, 3.0, 5.0, 5.0]), shape=shape)
    assert apart(two, four) == 0


class ReadsBack(TorchDispatchMode):
    """Counts what would wait for a device: a value read into Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_local_scalar_dense" in str(func) or "nonzero" in str(func) or "linalg_svd" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ALL)
def test_no_guider_waits_for_the_device(name: str) -> None:
    with ReadsBack() as reads:
        through(made(name))
    assert reads.count == 0


# --------------------------------------------------------------------------------------------------- made of others
def test_a_schedule_of_guiders_gives_each_its_steps() -> None:
    guider = sf.guiders.GuidanceSchedule(
        parts=(
            (0.0, made("PerturbedAttentionGuidance")),
            (0.3, made("ClassifierFreeGuidance")),
            (0.75, sf.guiders.NoGuidance()),
        )
    )
    denoiser = Denoiser()
    predictions = through(guider, denoiser=denoiser)
    assert denoiser.counts == [3] * 3 + [2] * 4 + [1] * 3
    parts = [through(part) for _, part in guider.parts]
    assert apart(predictions, [*parts[0][:3], *parts[1][3:7], *parts[2][7:]]) == 0
    denoiser = Denoiser()
    through(guider, TWO_TURNS, denoiser)
    assert denoiser.counts == [3] * 6 + [2] * 8 + [1] * 5


def test_guiders_of_a_schedule_remember() -> None:
    apg = made("AdaptiveProjectedGuidance", adaptive_projected_guidance_momentum=-0.5, start=0.0)
    schedule = sf.guiders.GuidanceSchedule(parts=((0.0, apg), (0.4, sf.guiders.NoGuidance()), (0.6, apg)))
    inner = sf.guiders.GuidanceSchedule(parts=((0.0, schedule),))
    predictions = through(inner)
    assert apart(predictions[:4], through(apg)[:4]) == 0
    late = made("AdaptiveProjectedGuidance", adaptive_projected_guidance_momentum=-0.5, start=0.6)
    assert apart(predictions[6:], through(late)[6:]) == 0


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((), "must begin at 0.0 and rise, below 1, but they begin at nothing"),
        (((0.5, sf.guiders.NoGuidance()),), r"begin at \[0.5\]"),
        (((0.0, sf.guiders.NoGuidance()), (0.0, sf.guiders.NoGuidance())), r"begin at \[0.0, 0.0\]"),
        (((0.0, "cfg"),), r"parts takes tuple\[tuple\[float, Block\], …\] .* got \(\(0.0, 'cfg'\),\)"),
    ],
)
def test_a_schedule_of_something_else_is_refused(parts: Any, told: str) -> None:
    with pytest.raises(sf.ConfigError, match=told):
        sf.guiders.GuidanceSchedule(parts=parts)


def test_a_schedule_of_blocks_that_are_no_guiders_is_refused() -> None:
    from sfumato.blocks.decode.images import DecodeLatents

    with pytest.raises(sf.ConfigError, match=r"DecodeLatents, needs vae\. The guiders of a schedule read only predict"):
        sf.guiders.GuidanceSchedule(parts=((0.0, DecodeLatents()),))


def test_the_references_tangential_guider_does_not_know_whom_it_asks(diffusers: Any) -> None:
    """5.3.5: so that control nets in guess mode crash. Our passes say their role, whoever guides."""
    reference = theirs(diffusers, "TangentialClassifierFreeGuidance")
    their_turn(reference, 0)
    with pytest.raises(AttributeError):
        _ = reference.is_conditional
    denoiser = Denoiser()
    through(sf.guiders.TangentialClassifierFreeGuidance(), denoiser=denoiser)
    assert denoiser.roles[0] == ["negative", "positive"]
