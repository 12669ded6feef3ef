"""Runs at the edges: with one or a few steps, with as many steps as timesteps, and from a level without signal."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.components.schedulers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    RePaintScheduler,
    Schedule,
    Scheduler,
    UniPCMultistepScheduler,
)
from sfumato.components.schedulers.customary_names import CURVES, SAMPLERS
from sfumato.graph.errors import ConfigError
from sfumato.registry import schedulers

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
ZERO_SNR = EulerDiscreteScheduler.from_config(
    {**SD, "rescale_betas_zero_snr": True, "timestep_spacing": "leading", "prediction_type": "v_prediction"}
)
"""A config that starts before the last timestep, as published ones do where nobody thought of it."""


def drawn(schedule: Schedule, scheduler: Scheduler) -> Tensor:
    """The end of a run with a model that answers what it gets, halved."""
    sample: Tensor = torch.randn((1, 3, 4, 4), generator=torch.Generator().manual_seed(0)) * min(
        schedule.noise_scale, 1e4
    )
    history: tuple[Tensor, ...] = ()
    for step in schedule:
        prediction = (sample * min(step.scale_in, 1e4)).tanh() / 2
        if (getattr(scheduler, "variance_type", None) or "").startswith("learned"):
            prediction = torch.cat([prediction, prediction], 1)
        noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(step.index)) if step.noisy else None
        sample, history = scheduler.advance(sample, prediction, step, history, noise)
    return sample


def starts(schedule: Schedule) -> list[float]:
    """The timestep at which each whole step starts."""
    whole = schedule.places
    return [t for i, t in enumerate(schedule.timesteps) if i == 0 or whole[i] != whole[i - 1]]


@pytest.mark.parametrize("name", list(schedulers))
def test_runs_of_a_few_steps_are_finite(name: str) -> None:
    scheduler = schedulers[name]()
    for n in (1, 2, 3, 4):
        try:
            schedule = scheduler.steps(n)
        except ConfigError:
            continue  # a solver that needs more steps
        assert torch.isfinite(drawn(schedule, scheduler)).all(), n


def test_one_step_of_a_stretched_schedule_starts_at_pure_noise() -> None:
    """Pure noise alone has nothing to stretch: it was 0 / 0."""
    flow: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for scheduler in (
        FlowMatchEulerDiscreteScheduler(shift_terminal=0.1),
        FlowMatchLCMScheduler(shift_terminal=0.1),
        UniPCMultistepScheduler(shift_terminal=0.1, **flow),
    ):
        schedule = scheduler.steps(1)
        assert schedule.sigmas == pytest.approx((1.0, 0.0), abs=2e-6)
        assert torch.isfinite(drawn(schedule, scheduler)).all()


@pytest.mark.parametrize("name", [name for name in schedulers if schedulers[name] is not RePaintScheduler])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_no_timestep_is_visited_twice(name: str, spacing: str) -> None:
    cls = schedulers[name]
    if not hasattr(cls, "timestep_spacing"):
        pytest.skip("has no spacing")
    for offset in (0, 1):
        try:
            scheduler = cls(timestep_spacing=spacing, steps_offset=offset)
        except ConfigError:
            return  # "linspace" of DDIMInverseScheduler
        for n in (1, 7, 499, 500, 501, 999, 1000):
            try:
                schedule = scheduler.steps(n)
            except ConfigError as error:
                assert n >= 999 or "distilled on" in str(error) or "Runge-Kutta" in str(error)  # noqa: PT017
                continue
            visited = starts(schedule)
            assert len({*visited}) == len(visited) == n, n
            assert visited in (sorted(visited), sorted(visited, reverse=True))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not name.startswith(("flow_", "edm_"))])
def test_a_model_of_zero_terminal_snr_starts_without_signal(sampler: str) -> None:
    """Lin et al. 2023, section 3.3: whatever sampler is chosen, and whatever curve but the one that starts later."""
    for curve in ("", *(f"_{curve}" for curve in CURVES if curve != "ddim_uniform")):
        try:
            scheduler = Scheduler.coerce(f"{sampler}{curve}", ZERO_SNR)
        except ConfigError as error:
            assert "does not have" in str(error)  # noqa: PT017
            continue
        for n in (4, 20):
            schedule = scheduler.steps(n)
            assert schedule.timesteps[0] == pytest.approx(999)
            assert schedule.sigmas[0] in (pytest.approx(4096), math.inf)
            assert torch.isfinite(drawn(schedule, scheduler)).all()


def test_a_class_that_cannot_have_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Scheduler.coerce("UnCLIP", EulerDiscreteScheduler(rescale_betas_zero_snr=True))
    assert str(error.value) == (
        "UnCLIPScheduler has no rescale_betas_zero_snr, but the model of EulerDiscreteScheduler was trained with it: "
        "without it the levels of noise are wrong. Pass another scheduler, such as 'euler' or 'dpmpp_2m'."
    )


def test_the_spacing_of_a_call_wins_over_the_start() -> None:
    assert DDIMScheduler.from_scheduler(ZERO_SNR).timestep_spacing == "trailing"
    assert DDIMScheduler.from_scheduler(ZERO_SNR, timestep_spacing="leading").timestep_spacing == "leading"


@pytest.mark.parametrize("name", ["DEISMultistep", "UniPCMultistep", "DPMSolverMultistep", "SASolver"])
@pytest.mark.parametrize(("sigmas", "got"), [((1.2, 0.9, 0.4), "1.2")])
def test_sigmas_of_which_lambda_is_no_number_are_refused(name: str, sigmas: tuple[float, ...], got: str) -> None:
    scheduler = schedulers[f"{name}Scheduler"](use_flow_sigmas=True, prediction_type="flow_prediction")
    with pytest.raises(ConfigError, match=rf"Needs sigmas above 0 and at most 1 where .*, got {got}\."):
        scheduler.steps(3, sigmas=sigmas)


FLOW: dict[str, Any] = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
NOISE: dict[str, Any] = {"final_sigmas_type": "sigma_min"}
SOLVERS: list[tuple[str, dict[str, Any]]] = [
    *[("DEISMultistep", {"solver_order": order}) for order in (1, 2, 3)],
    *[("DPMSolverMultistep", {"solver_order": order}) for order in (1, 2, 3)],
    *[("DPMSolverMultistep", {"algorithm_type": kind, **NOISE}) for kind in ("dpmsolver", "sde-dpmsolver")],
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    *[("DPMSolverSinglestep", {"solver_order": order}) for order in (1, 2, 3)],
    *[("DPMSolverSinglestep", {"solver_order": n, "algorithm_type": "dpmsolver", **NOISE}) for n in (1, 2, 3)],
    *[("UniPCMultistep", {"solver_order": n, "solver_type": kind}) for n in (1, 2, 3, 4) for kind in ("bh1", "bh2")],
    *[("UniPCMultistep", {"solver_order": order, "predict_x0": False, **NOISE}) for order in (1, 2, 3)],
    *[
        ("SASolver", {"predictor_order": n, "corrector_order": n, "algorithm_type": f"{kind}_prediction", "tau": tau})
        for n in (1, 2, 3, 4)
        for kind in ("data", "noise")
        for tau in (0.0, 1.0)
    ],
]
"""Every way to integrate in lambda, which is infinite without signal and without noise."""


@pytest.mark.parametrize("flow", [True, False])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize(("name", "keys"), SOLVERS)
def test_runs_from_pure_noise_and_to_no_noise_are_finite(
    name: str, keys: dict[str, Any], late: bool, flow: bool
) -> None:
    scheduler = schedulers[f"{name}Scheduler"](**keys, lower_order_final=late, **(FLOW if flow else {}))
    for sigmas in ((1.0, 0.0), (1.0, 0.5, 0.0), (1.0, 0.7, 0.4, 0.0), (1.0, 0.8, 0.6, 0.4, 0.2), (0.9, 0.5, 0.2, 0.0)):
        schedule = scheduler.steps(1, sigmas=sigmas)
        assert torch.isfinite(drawn(schedule, scheduler)).all(), sigmas


@pytest.mark.parametrize(("name", "keys"), SOLVERS)
def test_one_step_from_pure_noise_to_no_noise_is_the_clean_estimate(name: str, keys: dict[str, Any]) -> None:
    """All of them are DDIM there: x' = alpha' x0 + sigma' epsilon."""
    scheduler = schedulers[f"{name}Scheduler"](**keys, **FLOW)
    (step,) = scheduler.steps(1, sigmas=(1.0, 0.0))
    sample, velocity = torch.randn((2, 1, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    noise = torch.ones_like(sample) if step.noisy else None
    assert torch.equal(scheduler.advance(sample, velocity, step, (), noise)[0], sample - velocity)


@pytest.mark.parametrize("keys", [{}, {"solver_order": 3}])
def test_a_run_from_pure_noise_is_the_limit_of_runs_from_just_below(keys: dict[str, Any]) -> None:
    for name in ("DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep"):
        scheduler = schedulers[f"{name}Scheduler"](**keys, **FLOW)
        pure, below = (drawn(scheduler.steps(4, sigmas=(start, 0.7, 0.4, 0.1)), scheduler) for start in (1.0, 1 - 1e-4))
        assert torch.allclose(pure, below, atol=0.1), name


DIVIDING = ["DEISMultistep", "UniPCMultistep", "DPMSolverMultistep", "SASolver", "EDMDPMSolverMultistep",
            "CosineDPMSolverMultistep"]  # fmt: skip


@pytest.mark.parametrize("name", DIVIDING)
def test_a_level_twice_is_refused_where_differences_divide_by_the_step(name: str) -> None:
    scheduler = schedulers[f"{name}Scheduler"]()
    with pytest.raises(ConfigError) as error:
        scheduler.steps(3, sigmas=(1.0, 0.5, 0.5, 0.1))
    assert str(error.value) == (
        f"{name}Scheduler needs a new noise level in each step, got sigma 0.5 twice. Remove one."
    )


def test_ancestral_steps_along_rising_levels_are_refused() -> None:
    with pytest.raises(ConfigError) as error:
        LTXEulerAncestralRFScheduler(invert_sigmas=True)
    assert str(error.value) == (
        "LTXEulerAncestralRFScheduler needs levels that fall, got invert_sigmas=True. Use "
        "FlowMatchEulerDiscreteScheduler, or set invert_sigmas=False."
    )


def test_custom_timesteps_of_cogvideox_end_without_noise() -> None:
    scheduler = schedulers["CogVideoXDPMScheduler"]()
    assert torch.isfinite(drawn(scheduler.steps(3, timesteps=(999, 500, 250)), scheduler)).all()
