"""Every option, number by number, against diffusers 0.42.1: the plan exactly, whole runs to 1e-5 of the largest value.

Both sides run the same dummy model, and take the same noise: the reference from a generator, ours from that
generator's draws in order. So the order and the number of draws are tested too.
"""

import itertools
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import Schedule, Scheduler
from sfumato.registry import schedulers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in the reference

SHAPE = (2, 4, 6, 6)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "trailing", "linspace")
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
STEP_ARGUMENTS = ("eta", "use_clipped_model_output", "s_churn", "s_tmin", "s_tmax", "s_noise")
TRAINED = [0.0001 + 0.00002 * i for i in range(1000)]
TOLERANCE = 1e-5

Config = dict[str, Any]


def product(base: Mapping[str, Any], **options: Iterable[Any]) -> list[Config]:
    return [{**base, **dict(zip(options, chosen, strict=True))} for chosen in itertools.product(*options.values())]


EULER = [
    *product(
        SD,
        prediction_type=("epsilon", "v_prediction", "sample"),
        timestep_spacing=SPACINGS,
        curve=(None, "use_karras_sigmas", "use_exponential_sigmas"),
        final_sigmas_type=("zero", "sigma_min"),
        interpolation_type=("linear", "log_linear"),
    ),
    *product({}, beta_schedule=BETAS, timestep_spacing=SPACINGS, rescale_betas_zero_snr=(False, True)),
    *product({**SD, "timestep_spacing": "leading"}, steps_offset=(0, 1), prediction_type=("epsilon", "v_prediction")),
    *product({**SD, "use_karras_sigmas": True}, sigma_min=(None, 0.05), sigma_max=(None, 10.0)),
    *product({**SD, "timestep_type": "continuous"}, prediction_type=("epsilon", "v_prediction")),
    *product({"trained_betas": TRAINED}, timestep_spacing=SPACINGS),
    *product({**SD, "num_train_timesteps": 200}, timestep_spacing=SPACINGS),
    *product(
        {**SD, "s_churn": 5.0, "s_noise": 1.003},
        prediction_type=("epsilon", "v_prediction", "sample"),
        s_tmin=(0.0, 0.5),
        s_tmax=(float("inf"), 8.0),
    ),
]
ANCESTRAL = [
    *product({}, prediction_type=("epsilon", "v_prediction"), timestep_spacing=SPACINGS, beta_schedule=BETAS),
    *product({**SD, "rescale_betas_zero_snr": True}, timestep_spacing=SPACINGS, steps_offset=(0, 1)),
    *product({"trained_betas": TRAINED}, timestep_spacing=SPACINGS),
]
DDIM = [
    *product(
        SD,
        prediction_type=("epsilon", "v_prediction", "sample"),
        timestep_spacing=SPACINGS,
        clip_sample=(False, True),
        set_alpha_to_one=(False, True),
        eta=(0.0, 0.7, 1.0),
    ),
    *product({**SD, "eta": 0.5}, use_clipped_model_output=(False, True), clip_sample_range=(0.5, 2.0)),
    *product({**SD, "steps_offset": 1}, thresholding=(False, True), sample_max_value=(1.0, 1.5)),
    *product({**SD, "thresholding": True, "sample_max_value": 2.0}, dynamic_thresholding_ratio=(0.5, 0.9, 0.995)),
    *product({}, beta_schedule=BETAS, timestep_spacing=SPACINGS),
    *product({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, timestep_spacing=SPACINGS),
    *product({"trained_betas": TRAINED}, timestep_spacing=SPACINGS),
]
DDPM = [
    *product(
        SD,
        variance_type=("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"),
        prediction_type=("epsilon", "v_prediction", "sample"),
        timestep_spacing=SPACINGS,
        clip_sample=(False, True),
    ),
    *product({}, beta_schedule=(*BETAS, "sigmoid", "laplace"), timestep_spacing=SPACINGS, steps_offset=(0, 1)),
    *product({**SD, "thresholding": True}, sample_max_value=(1.0, 1.5), clip_sample_range=(0.5, 1.0)),
    *product({"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, timestep_spacing=SPACINGS),
    *product({"trained_betas": TRAINED}, timestep_spacing=SPACINGS),
]
GRID = [
    (name, config)
    for name, configs in (
        ("EulerDiscreteScheduler", EULER),
        ("EulerAncestralDiscreteScheduler", ANCESTRAL),
        ("DDIMScheduler", DDIM),
        ("DDPMScheduler", DDPM),
    )
    for config in configs
]
COUNTS = (5, 10, 25)


def label(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value).removesuffix("Scheduler")
    return "-".join(str(v) if k != "trained_betas" else "trained" for k, v in value.items() if v != SD.get(k))


def pair(name: str, config: Config) -> tuple[Scheduler, Any, Config]:
    """Ours, the reference, and what the reference takes as arguments of its `step`."""
    config = dict(config)
    if curve := config.pop("curve", None):
        config[curve] = True
    arguments = {key: config[key] for key in STEP_ARGUMENTS if key in config}
    published = {key: value for key, value in config.items() if key not in STEP_ARGUMENTS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return schedulers[name].from_config(config), getattr(diffusers, name)(**published), arguments


def model(x: Tensor, t: float, channels: int) -> Tensor:
    out = torch.tanh(0.6 * x) * 0.8 + 0.05 * torch.sin(torch.tensor(t / 100))
    return out if channels == x.shape[1] else torch.cat([out, 0.5 * torch.cos(x) ** 2 + 0.1], dim=1)


def channels_of(config: Config) -> int:
    return SHAPE[1] * (2 if config.get("variance_type", "").startswith("learned") else 1)


def reference_run(reference: Any, x: Tensor, channels: int, arguments: Config, begin: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if begin and hasattr(reference, "set_begin_index"):
        reference.set_begin_index(begin)
    for t in reference.timesteps[begin:]:
        seen = reference.scale_model_input(x, t)
        x = reference.step(model(seen, float(t), channels), t, x, generator=generator, **arguments).prev_sample
    return x


def our_run(scheduler: Scheduler, schedule: Schedule, x: Tensor, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    history: tuple[Tensor, ...] = ()
    for step in schedule:
        prediction = model(x * step.scale_in, step.timestep, channels)
        noise = torch.randn(x.shape, generator=generator) if step.noisy else None
        x, history = scheduler.advance(x, prediction, step, history, noise)
    return x


def start(scale: float = 1.0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * scale


def off(ours: Tensor, theirs: Tensor) -> float:
    assert torch.isfinite(theirs).all()
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize(("name", "config"), GRID, ids=label)
def test_a_run_is_the_reference_s_run(name: str, config: Config, n: int) -> None:
    ours, reference, arguments = pair(name, config)
    reference.set_timesteps(n)
    schedule = ours.steps(n)
    curved = bool(config.get("curve")) or config.get("timestep_type") == "continuous"
    clock = torch.tensor(schedule.timesteps, dtype=torch.float64)
    torch.testing.assert_close(clock, reference.timesteps.double(), rtol=1e-6 if curved else 0, atol=1e-4 * curved)
    assert schedule.device_timesteps.dtype == reference.timesteps.dtype
    if hasattr(reference, "sigmas"):
        about = curved or "interpolation_type" in config
        sigmas = torch.tensor(schedule.sigmas)
        torch.testing.assert_close(sigmas, reference.sigmas[: n + 1], rtol=2e-6 if about else 0, atol=0)
    assert schedule.noise_scale == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)

    x, channels = start(schedule.noise_scale), channels_of(config)
    theirs = reference_run(reference, x, channels, arguments)
    # A cosine schedule starts at sigma 20000 and falls to 25 in one step: a float32 difference leaves 3 digits less.
    room = 100 if "Ancestral" in name and schedule.noise_scale > 1e4 else 1
    assert off(our_run(ours, schedule, x, channels), theirs) < TOLERANCE * room


MIDDLES = [
    ("EulerDiscreteScheduler", {**SD, "timestep_spacing": "leading", "steps_offset": 1}),
    ("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {**SD, "s_churn": 5.0}),
    ("EulerAncestralDiscreteScheduler", SD),
    ("DDIMScheduler", {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    ("DDIMScheduler", {**SD, "eta": 1.0}),
    ("DDPMScheduler", SD),
]


@pytest.mark.parametrize("begin", [0, 1, 4, 9])
@pytest.mark.parametrize(("name", "config"), MIDDLES, ids=label)
def test_a_run_can_start_in_the_middle(name: str, config: Config, begin: int) -> None:
    ours, reference, arguments = pair(name, config)
    reference.set_timesteps(10)
    schedule = ours.steps(10)[begin:]
    image = start(0.5)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    if hasattr(reference, "set_begin_index"):
        reference.set_begin_index(begin)
    theirs = reference.add_noise(image, noise, reference.timesteps[begin : begin + 1].repeat(SHAPE[0]))
    x = ours.add_noise(image, noise, schedule[0])
    torch.testing.assert_close(x, theirs, rtol=1e-6, atol=1e-6)
    assert (
        off(our_run(ours, schedule, x, SHAPE[1]), reference_run(reference, theirs, SHAPE[1], arguments, begin))
        < TOLERANCE
    )


@pytest.mark.parametrize("config", [SD, {**SD, "use_karras_sigmas": True}, {"interpolation_type": "log_linear"}])
@pytest.mark.parametrize("sigmas", [[14.0, 6.0, 2.0, 0.5, 0.0], [9.5, 3.25, 0.9, 0.03]])
def test_euler_goes_by_sigmas_that_a_caller_gives(config: Config, sigmas: list[float]) -> None:
    ours, reference, arguments = pair("EulerDiscreteScheduler", config)
    reference.set_timesteps(sigmas=sigmas)
    schedule = ours.steps(99, sigmas=sigmas)
    assert schedule.sigmas == tuple(reference.sigmas.tolist())
    torch.testing.assert_close(schedule.device_timesteps, reference.timesteps, rtol=1e-6, atol=1e-4)
    x = start(schedule.noise_scale)
    assert off(our_run(ours, schedule, x, 4), reference_run(reference, x, 4, arguments)) < TOLERANCE


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDPMScheduler"])
def test_timesteps_that_a_caller_gives_are_visited(name: str) -> None:
    custom = [999, 800, 650, 300, 77, 0]
    ours, reference, arguments = pair(name, SD)
    reference.set_timesteps(timesteps=custom)
    schedule = ours.steps(99, timesteps=custom)
    assert schedule.timesteps == tuple(custom)
    x = start(schedule.noise_scale)
    assert off(our_run(ours, schedule, x, 4), reference_run(reference, x, 4, arguments)) < TOLERANCE


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_the_same_timesteps_are_visited_for_any_number_of_steps(name: str, spacing: str) -> None:
    ours, reference, _ = pair(name, {**SD, "timestep_spacing": spacing})
    for n in [*range(1, 120), *range(120, 1001, 37)]:
        reference.set_timesteps(n)
        theirs = tuple(reference.timesteps.tolist())
        if len(theirs) == n + 1:  # numpy.arange gives one too many for n = 61, 103 …: a timestep of -1 at the end
            assert spacing == "trailing"
            assert theirs[-1] == -1
            theirs = theirs[:n]
        assert ours.steps(n).timesteps == theirs, n


def test_beta_sigmas_are_the_published_ones() -> None:
    pytest.importorskip("scipy")
    ours, reference, arguments = pair("EulerDiscreteScheduler", {**SD, "use_beta_sigmas": True})
    reference.set_timesteps(10)
    schedule = ours.steps(10)
    torch.testing.assert_close(torch.tensor(schedule.sigmas), reference.sigmas, rtol=2e-6, atol=0)
    x = start(schedule.noise_scale)
    assert off(our_run(ours, schedule, x, 4), reference_run(reference, x, 4, arguments)) < TOLERANCE


# Where the reference is wrong or refuses, and we differ on purpose.


def test_ddpm_fixed_large_log_is_the_large_variance_where_the_reference_gives_nan() -> None:
    """The reference takes the root of the logarithm, which is negative."""
    ours, reference, arguments = pair("DDPMScheduler", {**SD, "variance_type": "fixed_large_log"})
    reference.set_timesteps(5)
    assert reference_run(reference, start(), 4, arguments).isnan().all()
    plain, _, _ = pair("DDPMScheduler", {**SD, "variance_type": "fixed_large"})
    assert torch.equal(our_run(ours, ours.steps(5), start(), 4), our_run(plain, plain.steps(5), start(), 4))


def test_log_linear_sigmas_are_one_for_each_step_and_the_end() -> None:
    """The reference keeps one more, which no step reads; only churn, divided by their number, would see it."""
    ours, reference, _ = pair("EulerDiscreteScheduler", {**SD, "interpolation_type": "log_linear"})
    reference.set_timesteps(5)
    assert len(reference.sigmas) == 7
    assert len(ours.steps(5).sigmas) == 6


def test_ancestral_euler_takes_what_the_reference_does_not() -> None:
    """The formulas hold: a "sample" prediction, timesteps and sigmas of one's own."""
    ours, _, _ = pair("EulerAncestralDiscreteScheduler", {**SD, "prediction_type": "sample"})
    other, _, _ = pair("EulerAncestralDiscreteScheduler", SD)
    step = ours.steps(3, timesteps=[900, 500, 100])[1]
    x, x0 = start(step.sigma), start(0.3)
    noise = torch.randn(SHAPE)
    by_sample, _ = ours.advance(x, x0, step, (), noise)
    by_epsilon, _ = other.advance(x, (x - x0) / step.sigma, step, (), noise)
    torch.testing.assert_close(by_sample, by_epsilon, rtol=1e-5, atol=1e-5)
    assert other.steps(2, sigmas=[5.0, 1.0, 0.0]).sigmas == (5.0, 1.0, 0.0)


def test_ddim_visits_timesteps_that_a_caller_gives_and_each_step_leads_to_the_next() -> None:
    ours, _, _ = pair("DDIMScheduler", SD)
    schedule = ours.steps(1, timesteps=[900, 500, 100])
    assert [step.target for step in schedule] == [schedule[1].level, schedule[2].level, (1.0, 0.0)]
